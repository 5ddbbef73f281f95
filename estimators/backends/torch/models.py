"""PyTorch modules: made from an MLP, brought to a dtype and a device."""

import copy
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


def unwrapped(model: nn.Module) -> nn.Module:
    """The module itself where it is wrapped for several processes or devices, or compiled: weights are shared."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        elif type(model).__name__ == "OptimizedModule":  # torch.compile's
            inner = model._orig_mod
        else:
            return model
        assert isinstance(inner, nn.Module)
        model = inner


def refuse_unsupported(model: nn.Module, *, per_sample: bool = True) -> None:
    """Raise a UsageError for a model whose gradients cannot be taken (by sample), naming what is in the way."""
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError("the model is scripted (torch.jit): give the module it was made from.")
    sharded = [type(m).__name__ for m in model.modules() if "FullyShardedDataParallel" in type(m).__name__]
    for name, parameter in model.named_parameters():
        if sharded or type(parameter.data).__name__ == "DTensor":
            raise UsageError(
                f"parameter {name!r} is shared out among processes (fully sharded): no process has the whole of it, "
                "so nothing can be measured. DistributedDataParallel, where each has all of them, can."
            )
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise UsageError(f"parameter {name!r} is lazy and has no shape yet: run one forward pass first.")
        if parameter.is_inference():
            raise UsageError(
                f"parameter {name!r} was made under torch.inference_mode(), which has no gradients: make the model "
                "outside of it."
            )
        if parameter.is_complex():
            raise UsageError(f"parameter {name!r} is complex: only real ones have the squared gradients needed here.")
    if torch.is_inference_mode_enabled():
        raise UsageError("torch.inference_mode() has no gradients: measure outside of it (torch.no_grad() is fine).")
    for name, module in model.named_modules() if per_sample else ():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.scale_grad_by_freq:
            raise UsageError(
                f"layer {name or 'the model'}: scale_grad_by_freq=True scales a sample's gradient by the others in its "
                "minibatch, so it has no gradient of its own; set it to False, or use estimator='sampled'."
            )


def copied(model: nn.Module) -> nn.Module:
    """A copy of a module; a UsageError where it cannot be copied."""
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise UsageError(
            f"the model cannot be copied, as another dtype or device needs ({str(error).splitlines()[0]}): bring it "
            "there yourself."
        ) from None


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
