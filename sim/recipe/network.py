"""A small convolutional network with BatchNorm for images of any size from 8x8 on, whose start is drawn by numpy."""

import math

import numpy as np
import torch
from torch import nn

STEM = 48  # channels after the halvings
WIDTHS = (64, 128, 128)  # of the three 3x3 convolutions behind them
INNER_SIDE = 16  # pixels, about, of what they see
_LEAST_INNER, _LEAST_WIDTH = 4, 12


def recipe_network(shape: tuple[int, int, int], n_classes: int, rng: np.random.Generator) -> nn.Module:
    """The network of the recipe at its start, float32, on the CPU; PyTorch's own random streams are left alone.

    One 4x4 convolution of stride 2 for each halving of the image (see `halvings`; without any, a 3x3 convolution),
    then 3x3 convolutions of 64, 128 and 128 channels, a maximum over 2x2 after the first two and over the whole image
    at the end, and one linear layer. BatchNorm and relu follow every convolution.

    Parameters
    ----------
    shape : tuple of int
        Channels, height and width of an image.
    n_classes : int
        K.
    rng : numpy.random.Generator
        Weights are drawn uniformly in +-1/sqrt(fan_in), as PyTorch does by default.
    """
    channels, *sides = shape
    count = halvings(*sides)
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        for k in range(count):
            width = max(_LEAST_WIDTH, STEM >> (count - 1 - k))
            layers += _normalised(nn.Conv2d(channels, width, 4, stride=2, padding=1, bias=False))
            channels = width
        if count == 0:
            layers += _normalised(nn.Conv2d(channels, STEM, 3, padding=1, bias=False))
            channels = STEM
        for place, width in enumerate(WIDTHS):
            layers += _normalised(nn.Conv2d(channels, width, 3, padding=1, bias=False))
            channels = width
            layers.append(nn.MaxPool2d(2) if place < len(WIDTHS) - 1 else nn.AdaptiveMaxPool2d(1))
        network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, n_classes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            reach = 1 / math.sqrt(module.weight[0].numel())
            for parameter in module.parameters():
                drawn = rng.uniform(-reach, reach, tuple(parameter.shape)).astype(np.float32)
                parameter.data.copy_(torch.from_numpy(drawn))
    return network


def halvings(height: int, width: int) -> int:
    """How often an image is halved before the 3x3 convolutions, so that larger ones cost little more.

    Once for 32x32, twice for 64x64, four times for 224x224, never below 4 pixels.
    """
    wanted = round(math.log2(math.sqrt(height * width) / INNER_SIDE))
    possible = int(math.log2(min(height, width) / _LEAST_INNER))
    return max(0, min(wanted, possible))


def _normalised(convolution: nn.Conv2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]
