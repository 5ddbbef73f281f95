"""Per-sample gradients of the weights of a convolution: what each question needs of them, and no more."""

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch.nn import functional as F

from sgdphases.estimators.backends.torch.factors import BLOCK_NUMBERS, Outer, double

LINE = 8  # positions
LANES = 16  # channels that oneDNN works on at once
FEW_WEIGHTS = 2**17  # of a sample, up to which PyTorch's backward pass of many groups is the quicker one
FEW_POSITIONS = 32  # below which a product with the patches is


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
        n_inputs = x.shape[1] // groups * kernel[0] * kernel[1]
        held = x.numel() + delta.numel()
        self._measure(len(x), groups, delta[0, 0].numel(), n_inputs, delta.shape[1] // groups, held)

    @property
    def inputs(self) -> torch.Tensor:  # type: ignore[override]
        return self._patches(slice(0, self.n))

    @property
    def deltas(self) -> torch.Tensor:  # type: ignore[override]
        return self._delta.flatten(2).unflatten(1, (self.groups, -1)).transpose(2, 3)

    def _patches(self, part: slice) -> torch.Tensor:
        """Of some samples, shape (n, groups, T, I)."""
        laid_out = patches_of(self._x[part], self._kernel, **self._how)
        return laid_out.unflatten(1, (self.groups, -1)).transpose(2, 3)

    def _some_rows(self, part: slice) -> torch.Tensor:
        if self._by_backward:  # every sample a group of its own
            x, delta = self._x[part], self._delta[part]
            return self._backward(x.flatten(0, 1)[None], delta.flatten(0, 1)[None], len(x)).view(len(x), -1)
        return torch.matmul(self.deltas[part].transpose(2, 3), self._patches(part)).flatten(1)

    def _block_size(self) -> int:
        if self._by_backward:
            return Outer._block_size(self)
        return 4 * BLOCK_NUMBERS // (self.groups * (self.size + self.positions * self.n_inputs))

    @cached_property
    def _rows(self) -> torch.Tensor:
        at_once = max(1, self._block_size()) if self._delta.device.type == "cpu" else self.n
        rows = [self._some_rows(slice(start, start + at_once)) for start in range(0, self.n, at_once)]
        return torch.cat(rows) if len(rows) > 1 else rows[0]

    def squares_and_sum(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum by PyTorch's own backward pass where no gradients of single samples are made of many positions."""
        if self.explicit or self._x.device.type != "cpu":  # others convolve in less than float32
            return Outer.squares_and_sum(self)
        if self.positions < FEW_POSITIONS:
            return self.squared_norms(), self.weighted_sums(None)[0]
        return self.squared_norms(), self._backward(self._x, self._delta, 1).flatten()

    def squared_norms(self) -> torch.Tensor:
        high, wide = (edge + 2 * pad for edge, pad in zip(self._x.shape[2:], self._how["padding"], strict=True))
        laid_out = self.positions**2 * self.n_inputs
        if self.explicit or (high * wide) ** 2 * self._x.shape[1] // self.groups > laid_out:
            return Outer.squared_norms(self)
        between = patch_products(self._x, self._kernel, self.groups, **self._how)
        return double((between * (self.deltas @ self.deltas.mT)).flatten(1).sum(dim=1)).clamp_min_(0)

    @property
    def _by_backward(self) -> bool:
        """Whether PyTorch's own backward pass is quicker at gradients of single samples than patches."""
        channels = self._x.shape[1] // self.groups
        fitting = channels % LANES == 0 and self.n_outputs % LANES == 0
        here = self._x.device.type == "cpu" and self._x.dtype == self._delta.dtype == torch.float32
        return here and fitting and self.groups * self.size <= FEW_WEIGHTS

    def _backward(self, x: torch.Tensor, delta: torch.Tensor, n: int) -> torch.Tensor:
        """Gradients of n weights, one for each sample in one image of many groups; or of one, summed over images."""
        channels, groups = self._x.shape[1] // self.groups, n * self.groups
        weight = x.new_empty(1).expand(groups * self.n_outputs, channels, *self._kernel)  # only its shape counts
        how = self._how["stride"], self._how["padding"], self._how["dilation"]
        return torch.ops.aten.convolution_backward(
            delta, x, weight, None, *how, False, (0, 0), groups, (False, True, False)
        )[1]

    def projections(self, directions: torch.Tensor) -> torch.Tensor:
        k = len(directions)
        if self._by_rows(k) or self._x.device.type != "cpu":  # others convolve in less than float32
            return Outer.projections(self, directions)
        shape = (self.groups, self.n_outputs, self._x.shape[1] // self.groups, *self._kernel)
        weights = directions.view(k, *shape).transpose(0, 1).flatten(0, 2)
        pushed = F.conv2d(self._x, weights, groups=self.groups, **self._how)
        pushed = pushed.view(self.n, self.groups, k, -1)
        deltas = self._delta.reshape(self.n, self.groups, 1, -1)
        return double(torch.linalg.vecdot(pushed, deltas)).sum(dim=1)


def patch_products(
    x: torch.Tensor,
    kernel: Sequence[int],
    groups: int,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> torch.Tensor:
    """Inner products of the patches at every two positions, shape (n, groups, T, T), without the patches.

    They are sums, over the places of the kernel, of inner products of pixels: each of these is taken once, while a
    pixel stands in as many patches as the kernel has places.
    """
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    pixels = x.unflatten(1, (groups, -1)).flatten(3)
    edges = x.shape[2:]
    products = (pixels.mT @ pixels).unflatten(3, edges).unflatten(2, edges)  # (n, groups, row, column, row', column')
    starts, total = [range(0, d * k, d) for d, k in zip(dilation, kernel, strict=True)], None
    counts = [(edge - each[-1] - 1) // s + 1 for edge, each, s in zip(edges, starts, stride, strict=True)]
    for top, left in product(*starts):
        rows, columns = (slice(a, a + s * (c - 1) + 1, s) for a, s, c in zip((top, left), stride, counts, strict=True))
        here = products[:, :, rows, columns, rows, columns]
        total = here.clone() if total is None else total.add_(here)
    assert total is not None
    return total.flatten(4).flatten(2, 3)


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
