"""PyTorch modules: made from an MLP, brought to a dtype and a device."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from sgdphases.estimators.backends.mlp import MLP
from sgdphases.estimators.errors import UsageError


def module_from_mlp(mlp: MLP) -> nn.Module:
    """The same network as a PyTorch module, float64, with the same weights and parameter names."""
    module = _Perceptron(mlp.layer_sizes, mlp.activation).double()
    nn.utils.vector_to_parameters(torch.from_numpy(np.array(mlp.weights, dtype=np.float64)), module.parameters())
    return module


class _Perceptron(nn.Module):
    def __init__(self, sizes: tuple[int, ...], activation: str):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.activation = {"relu": torch.relu, "tanh": torch.tanh, "erf": lambda z: torch.erf(z / 2**0.5)}[activation]

    def forward(self, x):
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


def moved(model: nn.Module, dtype: Any, device: str | None) -> nn.Module:
    """The module in this dtype and on this device, where they are given; a UsageError where there are none such."""
    if dtype is not None:
        model = model.to(float_type(dtype, "dtype"))
    if device is None:
        return model
    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device = {device!r} is not available here: {str(error).splitlines()[0]}") from error


def float_type(name: Any, what: str) -> torch.dtype:
    """A floating dtype by its name; a UsageError that names the setting ``what`` otherwise."""
    known = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
    text = str(name).removeprefix("torch.") if isinstance(name, (str, torch.dtype)) else np.dtype(name).name
    if text not in known:
        raise UsageError(f"{what} = {name}: choose one of {', '.join(known)}.")
    return known[text]
