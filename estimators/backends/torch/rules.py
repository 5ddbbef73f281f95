"""How a layer's parameters get their per-sample gradients, from its inputs and the loss derivatives at its output.

A rule takes the module, its inputs, the derivatives ``delta`` at its output and the number of samples n, and returns
one factor for each parameter by its name. Modules without a rule go through `torch.func`: correct for any module that
works sample by sample, and slower. What `torch.func` cannot transform is differentiated one sample after the other.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional as F

from sgdphases.estimators.backends.torch import recurrent
from sgdphases.estimators.backends.torch.factors import Explicit, Outer, Rows

Factors = dict[str, Any]
Rule = Callable[[Any, tuple, Any, int], Factors]
"""Derivatives are a list of tensors where the module answers with several."""


class NotSampleWise(Exception):
    """A layer's input or output does not have the samples along its first axis."""


def linear(module: nn.Linear, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    a, d = _positions(inputs[0], n), _positions(delta, n)
    return {
        "weight": Outer(a[:, None], d[:, None]),
        "bias": Explicit(d.flatten(1) if d.shape[1] == 1 else d.sum(dim=1)),
    }


def convolution(module: Any, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    x = _float(inputs[0])
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
    patches = F.unfold(x, kernel, dilation, padding, stride)  # (n, channels * kernel, T)
    a = patches.unflatten(1, (module.groups, -1)).transpose(2, 3)
    d = _float(delta).flatten(2).unflatten(1, (module.groups, -1)).transpose(2, 3)
    return {"weight": Outer(a, d), "bias": Explicit(_float(delta).flatten(2).sum(dim=2))}


def embedding(module: nn.Embedding, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    if module.scale_grad_by_freq:
        raise NotSampleWise
    index = inputs[0].reshape(n, -1)
    d = _positions(delta, n)
    if module.padding_idx is not None:
        d = d * (index != module.padding_idx)[..., None]
    return {"weight": Rows(index, d, module.num_embeddings)}


def layer_norm(module: nn.LayerNorm, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    shape = module.normalized_shape
    return _scales(F.layer_norm(_float(inputs[0]), shape, eps=module.eps), delta, n, (-1, *shape))


def rms_norm(module: nn.RMSNorm, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    shape = module.normalized_shape
    return _scales(F.rms_norm(_float(inputs[0]), shape, eps=module.eps), delta, n, (-1, *shape))


def group_norm(module: nn.GroupNorm, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    return _channel_scales(F.group_norm(_float(inputs[0]), module.num_groups, eps=module.eps), delta, n)


def instance_norm(module: Any, inputs: tuple, delta: torch.Tensor, n: int) -> Factors:
    own = module.training or module.running_mean is None
    normal = F.instance_norm(
        _float(inputs[0]),
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
    normal = F.batch_norm(_float(inputs[0]), module.running_mean, module.running_var, eps=module.eps)
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
}


def rule_of(module: nn.Module) -> Rule | None:
    """The rule of a module: its class's, or that of the class whose ``forward`` it inherits; None if there is none."""
    for kind in type(module).__mro__:
        if kind in RULES and type(module).forward is getattr(kind, "forward", None):
            return RULES[kind]
    return None


def by_torch_func(
    module: nn.Module, names: list[str], inputs: tuple, keywords: dict[str, Any], deltas: list[torch.Tensor], n: int
) -> Factors:
    """Per-sample gradients of the named parameters of any module: `vjp` of one sample, mapped over samples.

    Parameters
    ----------
    module : Module
        Its forward pass must treat samples along the first axis of every tensor it takes and gives.
    names : list of str
        Of parameters, relative to the module.
    inputs, keywords : what the module was called with
    deltas : list of tensor
        Loss derivatives at its output tensors, in the order of `floating`.
    n : int
    """
    call = (inputs, keywords)
    leaves = tensors_in(call)
    if any(len(leaf) != n for leaf in (*leaves, *deltas) if leaf.ndim) or not all(leaf.ndim for leaf in leaves):
        raise NotSampleWise
    own = dict(module.named_parameters(remove_duplicate=False))
    parameters = {name: own[name].detach() for name in names}

    def one(sample_leaves, sample_deltas):
        def outputs(parameters):
            args, kwargs = rebuilt(call, iter(leaf.unsqueeze(0) for leaf in sample_leaves))
            return tuple(out[0] for out in floating(functional_call(module, parameters, args, kwargs)))

        _, pull = vjp(outputs, parameters)
        return pull(tuple(sample_deltas))[0]

    rows = vmap(one)([leaf.detach() for leaf in leaves], deltas)
    return {name: Explicit(_float(rows[name].flatten(1))) for name in names}


def one_by_one(
    module: nn.Module, names: list[str], inputs: tuple, keywords: dict[str, Any], deltas: list[torch.Tensor], n: int
) -> Factors:
    """The same as `by_torch_func` by plain autograd, one sample after the other: slow, and no transform is needed."""
    call = (inputs, keywords)
    leaves = tensors_in(call)
    if any(leaf.ndim == 0 or len(leaf) != n for leaf in (*leaves, *deltas)):
        raise NotSampleWise
    own = dict(module.named_parameters(remove_duplicate=False))
    parameters = [own[name] for name in names]
    rows = [torch.zeros(n, p.numel(), dtype=p.dtype, device=p.device) for p in parameters]
    with torch.enable_grad():
        for i in range(n):
            args, kwargs = rebuilt(call, iter(leaf[i : i + 1].detach().clone() for leaf in leaves))
            answers = floating(module(*args, **kwargs))
            alive = [(out, delta[i : i + 1]) for out, delta in zip(answers, deltas, strict=True) if out.requires_grad]
            if not alive:
                continue
            outputs, ahead = zip(*alive, strict=True)
            for row, g in zip(rows, torch.autograd.grad(outputs, parameters, ahead, allow_unused=True), strict=True):
                if g is not None:
                    row[i] = (g.to_dense() if g.is_sparse else g).flatten()
    return {name: Explicit(_float(row)) for name, row in zip(names, rows, strict=True)}


def tensors_in(values: Any) -> list[torch.Tensor]:
    """All tensors in nested tuples, lists and dictionaries, in order."""
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    return [t for value in values for t in tensors_in(value)] if isinstance(values, (tuple, list)) else []


def floating(output: Any) -> list[torch.Tensor]:
    """The tensors of a module's output that can carry a gradient."""
    return [values for values in tensors_in(output) if values.is_floating_point()]


def rebuilt(values: Any, tensors: Any) -> Any:
    """The same nested structure with other tensors."""
    if isinstance(values, torch.Tensor):
        return next(tensors)
    if isinstance(values, dict):
        return {key: rebuilt(value, tensors) for key, value in values.items()}
    return type(values)(rebuilt(value, tensors) for value in values) if isinstance(values, (tuple, list)) else values


def _scales(normal: torch.Tensor, delta: torch.Tensor, n: int, shape: tuple[int, ...]) -> Factors:
    if len(normal) % n:
        raise NotSampleWise
    d = _float(delta).reshape(n, *shape)
    return {
        "weight": Explicit((normal.reshape(n, *shape) * d).sum(dim=1).flatten(1)),
        "bias": Explicit(d.sum(dim=1).flatten(1)),
    }


def _channel_scales(normal: torch.Tensor, delta: torch.Tensor, n: int) -> Factors:
    if len(normal) != n or normal.ndim < 2:
        raise NotSampleWise
    d = _float(delta).reshape(n, normal.shape[1], -1)
    return {"weight": Explicit((normal.reshape(d.shape) * d).sum(dim=2)), "bias": Explicit(d.sum(dim=2))}


def _positions(values: torch.Tensor, n: int) -> torch.Tensor:
    """(n, ..., width) or (n T, width) as (n, T, width)."""
    if len(values) % n:
        raise NotSampleWise
    return _float(values).reshape(n, -1, values.shape[-1])


def _float(values: torch.Tensor) -> torch.Tensor:
    """Half precision as float32, so that squares neither overflow nor vanish."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
