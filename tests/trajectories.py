"""Trajectories with known boundaries, for several test files."""

import numpy as np

from sgdphases.estimators.ensemble.order_parameters import describe
from sgdphases.sim.run.trajectory import trajectory_dataset


def fall(epoch, centre, width=0.15):
    """From 1 to 0 around ``centre``, a step smooth in the logarithm of the epoch."""
    with np.errstate(divide="ignore"):
        return 1 / (1 + np.exp((np.log10(epoch) - np.log10(centre)) / (width / 4)))


def trajectory(clean=3.0, wrong=50.0, end=1000.0, points=120, noise=0.5):
    """Clean labels learnt around epoch ``clean``, wrong ones around ``wrong`` (None: never)."""
    epoch = np.concatenate([[0.0], np.geomspace(0.05, end, points)])
    error_c = 0.9 * fall(epoch, clean)
    error_w = 0.9 * (np.ones_like(epoch) if wrong is None else fall(epoch, wrong))
    test = 0.05 + 0.85 * fall(epoch, clean) + 0.3 * (1 - error_w / 0.9)
    rows = {name: np.full(len(epoch), 0.5) for name in describe()}
    rows |= {"step": np.rint(epoch * 1000), "test_error": test, "test_loss": test}
    rows |= {"error_c": error_c, "error_w": error_w, "train_error": (1 - noise) * error_c + noise * error_w}
    if noise == 0:
        rows |= {name: np.full(len(epoch), np.nan) for name in rows if name.endswith("_w") or name.endswith("_cw")}
    return trajectory_dataset(rows, 1000, "learning_rate = 0.1")
