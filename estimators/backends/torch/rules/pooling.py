"""Maximum pooling on a CPU, by comparing whole lines of pixels.

PyTorch's kernel visits one pixel after the other and takes a quarter of the time of a pass through a small network of
convolutions. Where windows do not overlap, the same numbers come from comparing strided views.
"""

from collections.abc import Iterator
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
        vars(layer)["forward"] = _forward(layer)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def pooled(x: torch.Tensor, window: tuple[int, int]) -> torch.Tensor:
    """`torch.nn.functional.max_pool2d` for windows side by side: shape (..., H, W) to (..., H // h, W // w)."""
    return _Pool.apply(x, *window)


def _window(layer: nn.MaxPool2d) -> tuple[int, int] | None:
    """Height and width of its windows; None where they overlap, leave gaps, or reach over an edge."""
    window, step, padding, dilation = (
        (v, v) if isinstance(v, int) else (v[0], v[1])
        for v in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    )
    simple = padding == (0, 0) and dilation == (1, 1) and not layer.ceil_mode and not layer.return_indices
    return window if simple and step == window else None


def _forward(layer: nn.MaxPool2d) -> Any:
    window, original = _window(layer), layer.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        fits = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and x.is_contiguous()
        return pooled(x, window) if fits and window is not None and _room(x, window) else original(x)

    return forward


def _room(x: torch.Tensor, window: tuple[int, int]) -> bool:
    return x.ndim in (3, 4) and x.shape[-2] >= window[0] and x.shape[-1] >= window[1]


class _Pool(torch.autograd.Function):
    """The largest pixel of each window; PyTorch's own backward pass takes the places that they stood in."""

    @staticmethod
    def forward(ctx, x, height, width):
        rows, columns, edge = x.shape[-2] // height, x.shape[-1] // width, x.shape[-1]
        small = torch.int16 if height * edge < 2**15 else torch.int32
        used = x[..., : rows * height, : columns * width]
        # Along lines first: of equal pixels the first in reading order gets the derivative, as from PyTorch's kernel.
        places = [torch.tensor(left, dtype=small) for left in range(width)]
        across, place = _largest([used[..., left::width] for left in range(width)], places)
        place = place.expand(across.shape)
        places = [place[..., top::height, :] + top * edge for top in range(height)]
        most, place = _largest([across[..., top::height, :] for top in range(height)], places)
        starts = torch.arange(rows)[:, None] * (height * edge) + torch.arange(columns) * width
        ctx.save_for_backward(x, place + starts)
        ctx.window = [height, width]
        return most.clone() if height * width == 1 else most

    @staticmethod
    def backward(ctx, delta):
        x, places = ctx.saved_tensors
        fixed = ctx.window, ctx.window, [0, 0], [1, 1], False
        return torch.ops.aten.max_pool2d_with_indices_backward(delta.contiguous(), x, *fixed, places), None, None


def _largest(parts: list[torch.Tensor], places: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest of some parts, element by element, and its place; of equal ones the first."""
    most, place = parts[0], places[0]
    for part, other in zip(parts[1:], places[1:], strict=True):
        place = place + (part > most).to(place.dtype) * (other - place)  # a third of the time of `torch.where`
        most = torch.maximum(most, part)
    return most, place
