"""The rules of layers, and which one a module has. Modules without a rule: see `any_module`."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sgdphases.estimators.backends.torch.factors import Explicit, Outer, Rows
from sgdphases.estimators.backends.torch.rules import recurrent
from sgdphases.estimators.backends.torch.rules.attention import attention
from sgdphases.estimators.backends.torch.rules.convolved import Convolved
from sgdphases.estimators.backends.torch.rules.rule import Factors, NotSampleWise, Rule, as_float, positions


def linear(module: nn.Linear, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    a, d = positions(inputs[0], n), positions(delta, n)
    return {
        "weight": Outer(a[:, None], d[:, None]),
        "bias": Explicit(d.flatten(1) if d.shape[1] == 1 else d.sum(dim=1)),
    }


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
    return {"weight": weight, "bias": Explicit(d.flatten(2).sum(dim=2))}


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
    return _scales(F.layer_norm(as_float(inputs[0]), shape, eps=module.eps), delta, n, (-1, *shape))


def rms_norm(module: nn.RMSNorm, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    shape = module.normalized_shape
    return _scales(F.rms_norm(as_float(inputs[0]), shape, eps=module.eps), delta, n, (-1, *shape))


def group_norm(module: nn.GroupNorm, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    return _channel_scales(F.group_norm(as_float(inputs[0]), module.num_groups, eps=module.eps), delta, n)


def instance_norm(module: Any, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    own = module.training or module.running_mean is None
    normal = F.instance_norm(
        as_float(inputs[0]),
        None if own else module.running_mean,
        None if own else module.running_var,
        use_input_stats=own,
        eps=module.eps,
    )
    return _channel_scales(normal, delta, n)


def batch_norm(module: Any, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    """With frozen statistics; with those of the batch, no per-sample gradient exists."""
    if module.training or module.running_mean is None:
        raise NotSampleWise
    normal = F.batch_norm(as_float(inputs[0]), module.running_mean, module.running_var, eps=module.eps)
    return _channel_scales(normal, delta, n)


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


def _scales(normal: torch.Tensor, delta: torch.Tensor, n: int, shape: tuple[int, ...]) -> Factors:
    if len(normal) % n:
        raise NotSampleWise
    d = as_float(delta).reshape(n, *shape)
    return {
        "weight": Explicit((normal.reshape(n, *shape) * d).sum(dim=1).flatten(1)),
        "bias": Explicit(d.sum(dim=1).flatten(1)),
    }


def _channel_scales(normal: torch.Tensor, delta: torch.Tensor, n: int) -> Factors:
    if len(normal) != n or normal.ndim < 2:
        raise NotSampleWise
    d = as_float(delta).reshape(n, normal.shape[1], -1)
    return {"weight": Explicit((normal.reshape(d.shape) * d).sum(dim=2)), "bias": Explicit(d.sum(dim=2))}
