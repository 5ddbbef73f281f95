"""Losses of single samples, and the check that their mean is the loss that training minimises.

Every formula here needs a loss that is a mean over samples. A loss with class weights, ignored labels, padding or terms
between samples is none: PyTorch divides a minibatch's loss by the sum of its weights, so that the same sample counts
differently in different minibatches.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.func import vmap
from torch.nn import functional as F

from sgdphases.estimators.backends.samples import LOSSES
from sgdphases.estimators.errors import UsageError

if TYPE_CHECKING:
    from sgdphases.estimators.backends.torch.forward import Forward

SUBSETS = (2, 3, 5, 8, 16, 32)  # sizes of the minibatches on which a callable loss is compared with its mean
TOLERANCE = 2e-4  # of that comparison, relative to the mean loss: float32 rounding is a hundredth of it


def check_loss(loss: str | Callable, *, per_sample: bool = True) -> None:
    """Raise a UsageError for an unknown loss, and for one of PyTorch's that is no mean over samples by its settings.

    Where ``per_sample`` is False, a loss need not be a mean over samples.
    """
    if not (callable(loss) or loss in LOSSES):
        raise UsageError(f"loss = {loss!r}: choose one of {', '.join(LOSSES)}, or give a callable.")
    if not per_sample:
        return
    name = type(loss).__name__
    reduction = getattr(loss, "reduction", "mean")
    if isinstance(reduction, str) and reduction != "mean":
        raise UsageError(
            f"loss = {name}(reduction={reduction!r}) is no mean over samples: use reduction='mean', and scale the "
            "learning rate instead."
        )


def check_weights(loss: str | Callable, targets: torch.Tensor) -> None:
    """Raise a UsageError for one of PyTorch's losses with class weights that differ, which it divides by their sum.

    Not with soft targets: there it divides by the number of samples.
    """
    if targets.is_floating_point():
        return
    name = type(loss).__name__
    weight = getattr(loss, "weight", None)
    if isinstance(weight, torch.Tensor) and not isinstance(weight, torch.nn.Parameter):
        if not torch.allclose(weight, weight.flatten()[:1].expand_as(weight)):
            raise UsageError(
                f"loss = {name}(weight=…) divides by the sum of the weights in each minibatch, so it is no mean over "
                "samples: give a callable such as lambda out, y: (weight[y] * F.cross_entropy(out, y, "
                "reduction='none')).mean(), and train with that."
            )


def sample_losses(loss: str | Callable, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of each sample, shape (n,).

    A callable takes a batch's outputs and targets and gives their mean loss; it is applied to each sample by itself.
    """
    if callable(loss):
        return vmap(lambda out, target: loss(out.unsqueeze(0), target.unsqueeze(0)))(outputs, targets)
    targets = targets.to(outputs.dtype)
    if loss == "squared":
        return 0.5 * ((outputs - targets) ** 2).sum(dim=1)
    return F.cross_entropy(outputs, targets, reduction="none")


def check_mean(loss: str | Callable, losses: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor) -> None:
    """Raise a UsageError unless a callable's loss of these samples together is the mean of their losses.

    Parameters
    ----------
    loss : str or callable
        Losses known by name need no check.
    losses : tensor, shape (n,)
        Of `sample_losses`.
    outputs, targets : tensor, shape (n, ...)
    """
    if not callable(loss):
        return
    with torch.no_grad():
        together, mean = float(loss(outputs, targets)), float(losses.double().mean())
    if np.isfinite(together) or np.isfinite(mean):
        allowed = TOLERANCE * float(losses.detach().double().abs().mean()) + 1e-6
        if not abs(together - mean) <= allowed:
            raise UsageError(
                f"the loss of {len(losses)} samples together is {together:.4g}, the mean of their losses {mean:.4g}: "
                "it is no mean over samples (class weights, ignored labels, padding, a sum, shapes that broadcast, or "
                "terms between samples). Define it per sample, so that training minimises the mean over samples."
            )


def check_mean_over_subsets(forward: "Forward", index: torch.Tensor) -> None:
    """`check_mean` over subsets of several sizes, cut one after the other from these samples, and over all of them."""
    start = 0
    for size in SUBSETS:
        if start + size > len(index):
            break
        part = index[start : start + size]
        forward.check_mean(part, *forward(part))
        start += size
    forward.check_mean(index, *forward(index))


def varied_samples(labels: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of n samples in random order, all classes taking turns where there are classes; at most N of them."""
    order = rng.permutation(len(labels))
    kinds, places = np.unique(labels[order], return_inverse=True)
    if len(kinds) > 1:
        together = np.argsort(places, kind="stable")
        grouped = places[together]
        turn = np.empty(len(order), dtype=np.int64)  # how many of its kind come before a sample
        turn[together] = np.arange(len(order)) - np.searchsorted(grouped, grouped)
        order = order[np.argsort(turn, kind="stable")]
    return order[:n]
