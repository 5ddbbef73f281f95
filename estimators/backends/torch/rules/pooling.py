"""Maximum pooling on a CPU, by comparing whole lines of pixels.

PyTorch's kernel visits one pixel after the other and takes a quarter of the time of a pass through a small network of
convolutions. Where windows do not overlap, the same numbers come from comparing strided views.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def quick_pools(root: nn.Module) -> Iterator[None]:
    """A context in which layers of maximum pooling within a module pool by `pooled`, where that can be done."""
    layers = [
        m for m in root.modules() if type(m) is nn.MaxPool2d and "forward" not in vars(m) and _window(m) is not None
    ]
    for layer in layers:
        layer.forward = _forward(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def pooled(x: torch.Tensor, window: tuple[int, int]) -> torch.Tensor:
    """`torch.nn.functional.max_pool2d` for windows side by side: shape (..., H, W) to (..., H // h, W // w)."""
    return _Pool.apply(x, *window)


def _window(layer: nn.MaxPool2d) -> tuple[int, int] | None:
    """Height and width of its windows; None where they overlap, leave gaps, or reach over an edge."""
    window, step, padding, dilation = (
        (v, v) if isinstance(v, int) else tuple(v)
        for v in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    )
    simple = padding == (0, 0) and dilation == (1, 1) and not layer.ceil_mode and not layer.return_indices
    return window if simple and step == window else None


def _forward(layer: nn.MaxPool2d) -> Any:
    window, original = _window(layer), layer.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        fits = x.device.type == "cpu" and x.is_floating_point() and x.is_contiguous()
        return pooled(x, window) if fits and window is not None and _room(x, window) else original(x)

    return forward


def _room(x: torch.Tensor, window: tuple[int, int]) -> bool:
    return x.ndim in (3, 4) and x.shape[-2] >= window[0] and x.shape[-1] >= window[1]


class _Pool(torch.autograd.Function):
    """Along lines first: of equal pixels the first in reading order gets the derivative, as from PyTorch's kernel."""

    @staticmethod
    def forward(ctx, x, height, width):
        rows, columns = x.shape[-2] // height, x.shape[-1] // width
        ctx.shape, ctx.window = x.shape, (height, width)
        used = x[..., : rows * height, : columns * width]
        across, within = _largest([used[..., left::width] for left in range(width)])
        most, between = _largest([across[..., top::height, :] for top in range(height)])
        ctx.save_for_backward(*within, *between)
        return most.clone() if height * width == 1 else most

    @staticmethod
    def backward(ctx, delta):
        height, width = ctx.window
        within, between = ctx.saved_tensors[: width - 1], ctx.saved_tensors[width - 1 :]
        rows, columns = delta.shape[-2] * height, delta.shape[-1] * width
        across = delta.new_empty(*delta.shape[:-2], rows, delta.shape[-1])
        _share_out(delta, between, [across[..., top::height, :] for top in range(height)])
        whole = delta.new_zeros(ctx.shape) if (rows, columns) != ctx.shape[-2:] else delta.new_empty(ctx.shape)
        used = whole[..., :rows, :columns]
        _share_out(across, within, [used[..., left::width] for left in range(width)])
        return whole, None, None


def _largest(parts: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Element by element; and where each part but the first is larger than all before it."""
    most, larger = parts[0], []
    for part in parts[1:]:
        larger.append(part > most)
        most = torch.maximum(most, part)
    return most, larger


def _share_out(delta: torch.Tensor, larger: Sequence[torch.Tensor], parts: list[torch.Tensor]) -> None:
    """Write derivatives at the largest of some parts to the part that it came from, and zeros to the others."""
    for part, here in zip(reversed(parts[1:]), reversed(larger), strict=True):
        own = delta * here.to(delta.dtype)
        part.copy_(own)
        delta = delta - own
    parts[0].copy_(delta)
