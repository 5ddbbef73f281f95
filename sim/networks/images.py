"""Small convolutional and residual networks for images, whose start is drawn by numpy.

Normalisation is by groups of channels within a sample (GroupNorm, Wu & He 2018), never over the minibatch: each sample
then has a gradient of its own, as every closed form here needs.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from sgdphases.estimators.errors import UsageError

CNN_WIDTHS = (16, 32, 32)
RESNET_WIDTHS = (16, 32, 64)
GROUPS = 4
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "erf": lambda z: torch.erf(z / math.sqrt(2)),
}


def image_network(
    kind: str, input_shape: tuple[int, ...], n_outputs: int, activation: str, rng: np.random.Generator
) -> nn.Module:
    """A small network for images, float64, on the CPU; PyTorch's own random streams are left alone.

    Parameters
    ----------
    kind : {"cnn", "resnet"}
        "cnn": three 3x3 convolutions, each followed by the activation and a maximum over 2x2, then one linear layer.
        "resnet": a 3x3 convolution of stride 2, three residual blocks of two 3x3 convolutions with GroupNorm (He et al.
        2016, the second and third block of stride 2), a mean over the image, then one linear layer.
    input_shape : tuple of int
        Channels, height and width of an image, or height and width of one with a single channel.
    n_outputs : int
    activation : {"relu", "tanh", "erf"}
    rng : numpy.random.Generator
        Weights and biases are drawn uniformly in +-1/sqrt(fan_in), as PyTorch does by default; GroupNorm begins as the
        identity.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    UsageError
        If the samples are no images, or there is no such network.
    """
    known: dict[str, Callable[..., nn.Module]] = {"cnn": _Convolutional, "resnet": _Residual}
    if kind not in known:
        raise UsageError(f"network = {kind!r}: choose one of {', '.join(known)}.")
    if len(input_shape) not in (2, 3):
        raise UsageError(
            f"network = {kind!r} takes images, and a sample here has the shape {input_shape}: choose network = 'mlp', "
            "or data of the shape (channels, height, width)."
        )
    shape = (1, *input_shape) if len(input_shape) == 2 else input_shape
    with torch.random.fork_rng(devices=[]):
        network = known[kind](shape, n_outputs, _ACTIVATIONS[activation]).double()
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            reach = 1 / math.sqrt(module.weight[0].numel())
            for parameter in module.parameters():
                drawn = torch.from_numpy(rng.uniform(-reach, reach, parameter.shape))
                parameter.data.copy_(drawn)
    return network


class _Convolutional(nn.Module):
    def __init__(self, shape: tuple[int, ...], n_outputs: int, activation: Callable):
        super().__init__()
        channels, height, width = shape
        self.convolutions = nn.ModuleList()
        for out in CNN_WIDTHS:
            self.convolutions.append(nn.Conv2d(channels, out, 3, padding=1))
            channels, height, width = out, math.ceil(height / 2), math.ceil(width / 2)
        self.output = nn.Linear(channels * height * width, n_outputs)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _with_channels(x)
        for convolution in self.convolutions:
            x = F.max_pool2d(self.activation(convolution(x)), 2, ceil_mode=True)
        return self.output(x.flatten(1))


class _Residual(nn.Module):
    def __init__(self, shape: tuple[int, ...], n_outputs: int, activation: Callable):
        super().__init__()
        first, *_, last = RESNET_WIDTHS
        self.stem = nn.Conv2d(shape[0], first, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(GROUPS, first)
        widths = (first, *RESNET_WIDTHS)
        self.blocks = nn.ModuleList(
            _Block(widths[k], widths[k + 1], 1 if k == 0 else 2, activation) for k in range(len(RESNET_WIDTHS))
        )
        self.output = nn.Linear(last, n_outputs)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.norm(self.stem(_with_channels(x))))
        for block in self.blocks:
            x = block(x)
        return self.output(x.mean(dim=(2, 3)))


class _Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int, activation: Callable):
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride=stride, padding=1)
        self.first_norm = nn.GroupNorm(GROUPS, out)
        self.second = nn.Conv2d(out, out, 3, padding=1)
        self.second_norm = nn.GroupNorm(GROUPS, out)
        same = channels == out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride=stride)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.activation(self.first_norm(self.first(x)))
        return self.activation(self.second_norm(self.second(inner)) + self.shortcut(x))


def _with_channels(x: torch.Tensor) -> torch.Tensor:
    return x.unsqueeze(1) if x.ndim == 3 else x
