"""What each step of the recipe sees: its learning rate, its momentum, its samples. Functions of the step alone."""

import numpy as np
import torch

from sgdphases.sim.run.schedule import steps_per_epoch
from sgdphases.sim.run.streams import stream

WARM_UP = 0.2  # share of the run in which the learning rate rises


def one_cycle(n_steps: int, peak: float) -> tuple[np.ndarray, np.ndarray]:
    """Learning rate and momentum of every step: one cycle (Smith & Topin 2018), by PyTorch's own scheduler.

    The rate rises from peak/25 to the peak in the first fifth and falls along a cosine to peak/250,000; the momentum
    falls from 0.95 to 0.85 meanwhile, and rises again.

    Returns
    -------
    rates, momenta : ndarray, shape (n_steps,)
    """
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=peak, momentum=0.9, nesterov=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=n_steps + 1, pct_start=WARM_UP)
    optimiser.step()  # of nothing, or the scheduler warns that it comes first
    rates, momenta = np.empty(n_steps), np.empty(n_steps)
    for step in range(n_steps):
        rates[step], momenta[step] = (optimiser.param_groups[0][name] for name in ("lr", "momentum"))
        cycle.step()
    return rates, momenta


def batches(seed: int, epoch: int, n_samples: int, batch_size: int) -> list[np.ndarray]:
    """The samples of each step of an epoch, drawn again; batches are as even as can be.

    So the last is no remainder of one or two samples, whose mean and variance mean nothing to BatchNorm.
    """
    order = stream(seed, "order", epoch).permutation(n_samples)
    return np.array_split(order, steps_per_epoch(n_samples, batch_size))
