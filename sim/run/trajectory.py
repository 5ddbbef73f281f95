"""The record of a run: one labelled data set, every order parameter against step and epoch."""

import tomllib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from sgdphases.estimators.ensemble.order_parameters import describe
from sgdphases.estimators.errors import InputError
from sgdphases.sim.storage.netcdf import read_netcdf

OTHER_SCALARS = {
    "test_loss": ("L_te", "mean loss of the test set"),
    "test_error": ("ε_te", "fraction of test samples not given their label"),
    "test_lost": ("ε_lost", "fraction of test samples right at the lowest test error before, wrong here; 0 if lower"),
    "sharpness": ("h_max", "largest eigenvalue of the Hessian of the training loss"),
    "spectrum_total_variance": ("D", "trace of the noise matrix, of the parameters whose spectrum is measured"),
    "effective_dimension": ("D_s", "fewest leading eigenvalues of the noise matrix that hold 90 % of its trace"),
}
ARRAYS = {
    "noise_spectrum": ("e_l", "leading eigenvalues of the noise matrix, in falling order", ("step", "eigenvalue")),
    "sample_loss": ("l_i", "loss of each training sample", ("step", "sample")),
    "sample_right": ("", "whether a training sample is given its label", ("step", "sample")),
    "label": ("", "label of a training sample, as given", ("sample",)),
    "wrong": ("", "whether a training sample is in the wrong population", ("sample",)),
}
TEST_RIGHT = "test_right"  # which test samples are given their label, as packed bits: kept in checkpoints alone
NEEDED = ("step", "epoch", "loss", "train_error", "test_error", "noise_fraction")
"""What every trajectory holds against the step; a file without them is damaged, or something else."""
PARTS = {"sharp": "along the leading Hessian eigenvectors", "floor": "off the leading Hessian eigenvectors"}


def trajectory_dataset(rows: dict[str, np.ndarray], steps_per_epoch: int, settings: str) -> xr.Dataset:
    """What was measured, as an `xarray.Dataset` with dimension "step" ("eigenvalue" and "sample" where asked for).

    Parameters
    ----------
    rows : dict of ndarray, shape (checkpoints,)
        By name; "step" among them. Those of `ARRAYS` have the shape (checkpoints, k); "wrong" and "label" are the same
        at each, of which the first counts.
    steps_per_epoch : int
    settings : str
        The run's settings as TOML, kept as an attribute. Their loss decides the units of losses.

    Returns
    -------
    xarray.Dataset
        Variables carry their symbol and meaning as attributes; coordinates "step" and "epoch".
    """
    meaning = {**describe(), **OTHER_SCALARS}
    meaning |= {
        f"{name}_{part}": (f"{symbol} ({part})", f"{text}, {where}")
        for name, (symbol, text) in describe().items()
        for part, where in PARTS.items()
    }
    meaning |= {
        f"{name}_theory": (f"{symbol} (theory)", f"{text}, predicted") for name, (symbol, text) in meaning.items()
    }
    errors = {name: name.removesuffix("_standard_error") for name in rows if name.endswith("_standard_error")}
    meaning |= {name: (symbol, text) for name, (symbol, text, _) in ARRAYS.items()}
    meaning |= {name: (f"δ{meaning[of][0]}", f"standard error of {meaning[of][0]}") for name, of in errors.items()}
    loss_units = "nat" if tomllib.loads(settings).get("loss") == "cross-entropy" else "1"
    step = rows["step"].astype(np.int64)
    variables = {
        name: (
            ARRAYS[name][2] if name in ARRAYS else "step",
            values[0] if ARRAYS.get(name, ("", "", ()))[2] == ("sample",) else values,
            {"symbol": meaning[name][0], "long_name": meaning[name][1], "units": loss_units if "loss" in name else "1"},
        )
        for name, values in rows.items()
        if name not in ("step", TEST_RIGHT)
    }
    coordinates = {
        "step": ("step", step, {"long_name": "SGD steps done"}),
        "epoch": ("step", step / steps_per_epoch, {"long_name": "passes over the training set"}),
    }
    return xr.Dataset(variables, coordinates, {"settings": settings, "steps_per_epoch": steps_per_epoch})


def error_sizes(y_train: np.ndarray, y_test: np.ndarray, n_classes: int) -> dict[str, float]:
    """What the sampling noise of errors is judged by, as attributes of a trajectory.

    Parameters
    ----------
    y_train, y_test : ndarray of int, shape (N,) and (N_test,)
        Class labels, those that the network is trained on and tested with.
    n_classes : int

    Returns
    -------
    dict of float
        ``n_test``, ``n_classes``, and ``chance_error``, ``chance_error_train``: the errors on the test and the training
        set of always answering the set's own commonest class. None of the test's without test samples.
    """
    found: dict[str, float] = {"n_classes": n_classes, "chance_error_train": _chance_error(y_train)}
    return {**found, "n_test": len(y_test), "chance_error": _chance_error(y_test)} if len(y_test) else found


def _chance_error(labels: np.ndarray) -> float:
    return float(1 - np.bincount(labels).max() / len(labels))


def lost_samples(rows: dict[str, np.ndarray], right: np.ndarray) -> dict[str, Any]:
    """Test samples right at the lowest test error before and wrong now: what a paired test of a rise needs.

    Parameters
    ----------
    rows : dict of ndarray
        Those of the checkpoints before.
    right : ndarray of float, shape (N_test,)
        1 where a test sample is given its label, now, 0 where not; NaN for regression.

    Returns
    -------
    dict
        ``test_lost``, their fraction (0 where the error is the lowest now), and the bits of ``right``, which the next
        checkpoint needs. Empty for regression, and where the rows were begun by a version that did not record it.
    """
    if not len(right) or np.isnan(right).any() or (rows and TEST_RIGHT not in rows):
        return {}
    bits, lost = np.packbits(right > 0.5), 0.0
    if rows and (lowest := rows["test_error"].min()) < 1 - right.mean():
        best = rows[TEST_RIGHT][int(np.flatnonzero(rows["test_error"] == lowest)[0])]
        lost = int(np.bitwise_count(best & ~bits).sum()) / len(right)
    return {"test_lost": lost, TEST_RIGHT: bits}


def read_trajectory(path: str | Path) -> xr.Dataset:
    """Read a trajectory into memory.

    Parameters
    ----------
    path : str or Path
        Of ``trajectory.nc`` in the folder of a run or a monitor.

    Raises
    ------
    InputError
        If the file is missing or no trajectory.
    """
    path = Path(path)
    found = read_netcdf(path, "trajectory", "the folder of a run that reached a checkpoint")
    lacks = [name for name in NEEDED if name not in found or found[name].dims != ("step",)]
    try:
        tomllib.loads(found.attrs["settings"])
    except (KeyError, TypeError, AttributeError, ValueError):
        lacks.append("settings")
    if lacks:
        raise InputError(f"{path} is no usable trajectory (no {', '.join(lacks)} in it).")
    return found


def last_epoch(path: Path) -> tuple[float, dict[str, Any]]:
    """The last epoch of a trajectory, and its attributes, without reading the rest of it.

    Raises
    ------
    InputError
        If the file is missing or no trajectory.
    """
    try:
        with h5py.File(path, "r") as stored:
            known = {name: value for name, value in stored.attrs.items() if not name.startswith("_")}
            attributes = {name: value if isinstance(value, str) else value.item() for name, value in known.items()}
            return float(stored["epoch"][-1]), attributes
    except Exception as error:  # a damaged file may raise anything
        raise InputError(f"{path} is no usable trajectory ({error or type(error).__name__}).") from None
