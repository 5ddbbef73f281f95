"""Per-sample gradients of the weights of a convolution: what each question needs of them, and no more."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from sgdphases.estimators.backends.torch.factors import Outer, double

LINE = 8  # positions
FEW_DIRECTIONS = 4  # up to which a convolution for each is cheaper than the gradients of single samples


class Convolved(Outer):
    """The weights of a convolution: outer products over its positions, whose patches are laid out only where needed.

    The projection of a sample's gradient on a direction V needs neither patches nor a gradient of the sample: it is the
    inner product of its delta and the convolution of its input with V.

    Parameters
    ----------
    x : tensor, shape (n, channels, height, width)
    delta : tensor, shape (n, outputs, height', width')
    kernel : tuple of int
        Height and width.
    groups : int
    how : dict
        ``stride``, ``padding`` and ``dilation``, two numbers each.
    """

    def __init__(self, x: torch.Tensor, delta: torch.Tensor, kernel: tuple[int, ...], groups: int, how: dict[str, Any]):
        self._x, self._delta, self._kernel, self._how = x, delta, kernel, how
        self._patches: torch.Tensor | None = None
        n_inputs = x.shape[1] // groups * kernel[0] * kernel[1]
        self._measure(len(x), groups, delta[0, 0].numel(), n_inputs, delta.shape[1] // groups)

    @property
    def inputs(self) -> torch.Tensor:  # type: ignore[override]
        if self._patches is not None:
            return self._patches
        laid_out = patches_of(self._x, self._kernel, **self._how)
        patches = laid_out.unflatten(1, (self.groups, -1)).transpose(2, 3)
        if not self.explicit:  # else the gradients made of them are kept, which hold less
            self._patches = patches
        return patches

    @property
    def deltas(self) -> torch.Tensor:  # type: ignore[override]
        return self._delta.flatten(2).unflatten(1, (self.groups, -1)).transpose(2, 3)

    def projections(self, directions: torch.Tensor) -> torch.Tensor:
        k = len(directions)
        laid_out = "_rows" in self.__dict__ or self._patches is not None
        if laid_out or k > FEW_DIRECTIONS or self._x.device.type != "cpu":  # others convolve in less than float32
            return Outer.projections(self, directions)
        shape = (self.groups, self.n_outputs, self._x.shape[1] // self.groups, *self._kernel)
        weights = directions.view(k, *shape).transpose(0, 1).flatten(0, 2)
        pushed = F.conv2d(self._x, weights, groups=self.groups, **self._how)
        pushed = pushed.view(self.n, self.groups, k, -1)
        deltas = self._delta.reshape(self.n, self.groups, 1, -1)
        return double(torch.linalg.vecdot(pushed, deltas)).sum(dim=1)


def patches_of(
    x: torch.Tensor,
    kernel: Sequence[int],
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> torch.Tensor:
    """What `torch.nn.functional.unfold` gives, shape (n, channels x kernel, T), in a third of its time on a CPU.

    There whole lines of positions are copied at once, which pays from `LINE` on.
    """
    columns = (x.shape[3] + 2 * padding[1] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    if x.device.type != "cpu" or columns < LINE:
        return F.unfold(x, tuple(kernel), tuple(dilation), tuple(padding), tuple(stride))
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0])) if any(padding) else x.contiguous()
    lines = (x.shape[2] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    n, channels, high, wide = x.stride()
    steps = (n, channels, dilation[0] * high, dilation[1] * wide, stride[0] * high, stride[1] * wide)
    each = x.as_strided((*x.shape[:2], *kernel, lines, columns), steps)
    return each.reshape(len(x), -1, lines * columns)
