"""The check of captured gradients against autograd.

It is made where gradients are alive: at weights moved a little at random, on samples of all classes, in float32 or
better. A last layer that starts at zero, a loss that vanishes for some samples, or half precision would otherwise let
any rule pass. `TorchBackend` repeats a smaller one, at the present weights, at every measurement.

float32 may be too coarse to decide, too: in a large network of ReLUs some unit stands so close to zero that it is on
for a sample alone and off for the same sample in a batch, which changes its gradient by up to a per cent. What fails
in float32 is asked again in float64.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from torch import nn

from sgdphases.estimators.errors import UsageError

Run = Callable[[list[int]], tuple[torch.Tensor, torch.Tensor]]
ALLOWED = 2e-3  # difference of gradients, relative to the largest of the parameter: float32 stays below 1e-4 of it
COARSE = 0.05  # the same for models that compute in half precision
FLOOR = 1e-3  # of the largest gradient of all: smaller ones may vanish by an identity, and be nothing but rounding
COUPLED = 1e-3  # difference of a loss alone and in a batch, likewise
NOISE = 0.2  # standard deviation of the move, relative to the root mean square of each parameter
TOTAL = 64  # samples whose summed gradient is compared with one backward pass, at every measurement
FEW, MOST = 6, 24  # samples compared; more are drawn while a parameter has no gradient in any of them


@contextmanager
def moved_at_random(module: nn.Module, seed: int = 0) -> Iterator[None]:
    """A context in which every trainable parameter is moved a little; afterwards all have their old bits."""
    generator = torch.Generator().manual_seed(seed)
    kept = [(p, p.detach().clone()) for p in module.parameters() if p.requires_grad]
    try:
        with torch.no_grad():
            for parameter, value in kept:
                size = float(value.double().square().mean().sqrt()) if value.numel() else 0.0
                fan_in = value[0].numel() if value.ndim > 1 else 1
                scale = NOISE * size if np.isfinite(size) and size > 0 else NOISE / fan_in**0.5
                drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                parameter.add_((scale * drawn).to(parameter))
        yield
    finally:
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)


def widened(module: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    """A copy in a wider dtype; None where the module cannot be copied."""
    try:
        return copy.deepcopy(module).to(dtype)
    except (RuntimeError, TypeError, NotImplementedError):
        return None


def dense(gradient: torch.Tensor) -> torch.Tensor:
    """A gradient as an ordinary tensor: embeddings may have sparse ones."""
    return gradient.to_dense() if gradient.is_sparse else gradient


class Expected:
    """What autograd gives for some samples, one by one: losses, and gradients by the measured parameters."""

    def __init__(self, run: Run, parameters: list[nn.Parameter], candidates: np.ndarray):
        self.samples: list[int] = []
        self.losses: list[float] = []
        self.gradients: list[list] = []
        alive = torch.zeros(len(parameters), dtype=torch.bool)
        for sample in map(int, candidates[:MOST]):
            if len(self.samples) >= FEW and bool(alive.all()):
                break
            loss, _ = run([sample])
            gradients = torch.autograd.grad(loss.sum(), parameters, allow_unused=True)
            found = [g if g is None else dense(g) for g in gradients]
            self.samples.append(sample)
            self.losses.append(float(loss.detach()[0]))
            self.gradients.append(found)
            alive |= torch.tensor([g is not None and bool((g != 0).any()) for g in found])

    def rows(self, k: int, parameter: nn.Parameter) -> torch.Tensor:
        """Gradients by the k-th parameter, shape (samples, p)."""
        own = [torch.zeros_like(parameter) if row[k] is None else row[k] for row in self.gradients]
        return torch.stack([values.flatten() for values in own]).float()

    @cached_property
    def floor(self) -> float:
        """The least size of a gradient that counts."""
        return floor_of(self.gradients)


def floor_of(gradients: Iterable[Sequence[torch.Tensor | None]]) -> float:
    """The least size of a gradient that counts beside these of one or several samples, by parameter."""
    sizes = [float(dense(g).abs().max()) for row in gradients for g in row if g is not None and g.numel()]
    return max(FLOOR * max((size for size in sizes if np.isfinite(size)), default=0.0), 1e-30)


def differing(factors: dict, parameters: list[nn.Parameter], expected: Expected, allowed: float) -> list[nn.Parameter]:
    """Parameters whose captured gradients are not those of autograd."""
    wrong = []
    for k, parameter in enumerate(parameters):
        rows = expected.rows(k, parameter)
        found = factors[parameter].dense().float() if parameter in factors else torch.zeros_like(rows)
        scale = float(rows.abs().max())
        gap = float((found - rows).abs().max())
        if np.isfinite(scale) and not gap <= allowed * max(scale, expected.floor):
            wrong.append(parameter)
        elif parameter in factors:  # the squared norm has a way of its own
            norms, ought = factors[parameter].squared_norms().cpu(), rows.double().square().sum(dim=1).cpu()
            most = float(ought.max())
            if np.isfinite(most) and not float((norms - ought).abs().max()) <= 2 * allowed * max(
                most, expected.floor**2
            ):
                wrong.append(parameter)
    return wrong


def refuse_coupling(run: Run, expected: Expected, parameters: list[nn.Parameter], allowed: float) -> None:
    """Raise a UsageError if a sample's loss or gradient depends on the others in its batch, or is random."""
    with torch.no_grad():
        again = run(expected.samples)[0].double().cpu()
    together, _ = run(expected.samples)
    total = torch.autograd.grad(together.sum(), parameters, allow_unused=True)
    together = together.detach().double().cpu()
    scale = max(1e-3, float(together.abs().max()))
    if float((together - again).abs().max()) > allowed * scale:
        raise UsageError("the model gives another loss at each forward pass (random layers): call model.eval() first.")
    gap = float((together - torch.tensor(expected.losses).double()).abs().max())
    coupled = gap > allowed * scale
    for k, gradient in enumerate(total):
        if gradient is not None and not coupled:
            alone = expected.rows(k, parameters[k]).sum(dim=0)
            size = float(expected.rows(k, parameters[k]).abs().max())
            coupled = float((dense(gradient).flatten().float() - alone).abs().max()) > 2 * allowed * max(
                size, expected.floor
            )
    if coupled:
        raise UsageError(
            "the loss of a sample changes with the others in its batch, so it has no gradient of its own: "
            "use estimator='sampled', which only needs minibatch gradients."
        )
