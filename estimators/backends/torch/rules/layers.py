"""The rules of layers, and which one a module has. Modules without a rule: see `any_module`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sgdphases.estimators.backends.torch.factors import Explicit, Outer, Rows
from sgdphases.estimators.backends.torch.rules import recurrent
from sgdphases.estimators.backends.torch.rules.attention import attention
from sgdphases.estimators.backends.torch.rules.convolved import Convolved
from sgdphases.estimators.backends.torch.rules.rule import Factors, NotSampleWise, Rule, as_float, positions

Normal = Callable[[torch.Tensor], torch.Tensor]
NUMBERS_AT_ONCE = 2**16  # on a CPU


def linear(module: nn.Linear, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    a, d = positions(inputs[0], n), positions(delta, n)
    weight = Outer(a[:, None], d[:, None])
    if module.bias is None:
        return {"weight": weight}
    return {"weight": weight, "bias": Explicit(d.flatten(1) if d.shape[1] == 1 else d.sum(dim=1))}


def transposed_linear(module: Any, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    """GPT-2's linear layer, which keeps its weight as (inputs, outputs)."""
    a, d = positions(inputs[0], n), positions(delta, n)
    return {"weight": Outer(d[:, None], a[:, None]), "bias": Explicit(d.sum(dim=1))}


def convolution(module: Any, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    x = as_float(inputs[0])
    if len(x) != n:
        raise NotSampleWise
    flat = isinstance(module, nn.Conv1d)  # along one axis: an image one pixel high
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    if module.padding_mode != "zeros" or module.padding == "same":
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x, padding = F.pad(x, module._reversed_padding_repeated_twice, mode=mode), (0,) * len(kernel)
    else:
        padding = (0,) * len(kernel) if module.padding == "valid" else module.padding
    if flat:
        x, kernel, stride, dilation, padding = (
            x.unsqueeze(2), (1, *kernel), (1, *stride), (1, *dilation), (0, *padding),
        )  # fmt: skip
    d, how = as_float(delta), {"stride": stride, "padding": padding, "dilation": dilation}
    weight = Convolved(x, d.unsqueeze(2) if flat else d, kernel, module.groups, how)
    return {"weight": weight} if module.bias is None else {"weight": weight, "bias": Explicit(d.flatten(2).sum(dim=2))}


def embedding(module: nn.Embedding, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    if module.scale_grad_by_freq:
        raise NotSampleWise
    index = inputs[0].reshape(n, -1)
    d = positions(delta, n)
    if module.padding_idx is not None:
        d = d * (index != module.padding_idx)[..., None]
    return {"weight": Rows(index, d, module.num_embeddings)}


def layer_norm(module: nn.LayerNorm, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    shape = module.normalized_shape
    return _scales(lambda x: F.layer_norm(x, shape, eps=module.eps), inputs[0], delta, n, (-1, *shape))


def rms_norm(module: nn.RMSNorm, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    shape = module.normalized_shape
    return _scales(lambda x: F.rms_norm(x, shape, eps=module.eps), inputs[0], delta, n, (-1, *shape))


def group_norm(module: nn.GroupNorm, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    return _channel_scales(lambda x: F.group_norm(x, module.num_groups, eps=module.eps), inputs[0], delta, n)


def instance_norm(module: Any, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    own = module.training or module.running_mean is None
    kept = (None, None) if own else (module.running_mean, module.running_var)
    normal = partial(F.instance_norm, use_input_stats=own, eps=module.eps)
    return _channel_scales(lambda x: normal(x, *kept), inputs[0], delta, n)


def batch_norm(module: Any, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    """With frozen statistics; with those of the batch, no per-sample gradient exists."""
    if module.training or module.running_mean is None:
        raise NotSampleWise
    kept = module.running_mean, module.running_var
    return _channel_scales(lambda x: F.batch_norm(x, *kept, eps=module.eps), inputs[0], delta, n)


RULES: dict[type, Rule] = {
    nn.Linear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.Embedding: embedding,
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: rms_norm,
    nn.GroupNorm: group_norm,
    nn.InstanceNorm1d: instance_norm,
    nn.InstanceNorm2d: instance_norm,
    nn.InstanceNorm3d: instance_norm,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.BatchNorm3d: batch_norm,
    nn.RNN: recurrent.layer,
    nn.LSTM: recurrent.layer,
    nn.GRU: recurrent.layer,
    nn.RNNCell: recurrent.cell,
    nn.LSTMCell: recurrent.cell,
    nn.GRUCell: recurrent.cell,
    nn.MultiheadAttention: attention,
}
BY_NAME: dict[str, Rule] = {"transformers.pytorch_utils.Conv1D": transposed_linear}
"""Rules for classes of packages that need not be there."""
WHOLE = (nn.MultiheadAttention,)
"""Modules whose rule answers for the modules inside them, too: they use their parameters without calling them."""


def rule_of(module: nn.Module) -> Rule | None:
    """The rule of a module: its class's, or that of the class whose ``forward`` it inherits; None if there is none."""
    for kind in type(module).__mro__:
        rule = RULES.get(kind) or BY_NAME.get(f"{kind.__module__}.{kind.__qualname__}")
        if rule is not None and type(module).forward is getattr(kind, "forward", None):
            return rule
    return None


def _scales(normal: Normal, x: torch.Tensor, delta: torch.Tensor, n: int, shape: tuple[int, ...]) -> Factors:
    if len(x) % n:
        raise NotSampleWise
    x, d = x.reshape(n, *shape), delta.reshape(n, *shape)
    return _of_scales(normal, x, d, lambda values: values.sum(dim=1).flatten(1))


def _channel_scales(normal: Normal, x: torch.Tensor, delta: torch.Tensor, n: int) -> Factors:
    if len(x) != n or x.ndim < 2:
        raise NotSampleWise
    return _of_scales(normal, x, delta, lambda values: values.flatten(2).sum(dim=2) if values.ndim > 2 else values)


def _of_scales(normal: Normal, x: torch.Tensor, d: torch.Tensor, summed: Normal) -> Factors:
    """Gradients of scales and shifts of normalised inputs, few samples at a time: they stay in a core's cache."""
    at_once = max(1, NUMBERS_AT_ONCE * len(x) // max(1, x.numel())) if x.device.type == "cpu" else len(x)
    scales, shifts = [], []
    for inputs, deltas in zip(x.split(at_once), d.split(at_once), strict=True):
        ahead = as_float(deltas)
        scales.append(summed(normal(as_float(inputs)).mul_(ahead)))
        shifts.append(summed(ahead))
    return {"weight": Explicit(torch.cat(scales)), "bias": Explicit(torch.cat(shifts))}
