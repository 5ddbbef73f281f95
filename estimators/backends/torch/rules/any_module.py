"""Modules without a rule: `torch.func`, correct for any module that works sample by sample, and slower. What it cannot
transform is differentiated one sample after the other.
"""

from typing import Any

import torch
from torch import nn
from torch.func import functional_call, vjp, vmap

from sgdphases.estimators.backends.torch.factors import Explicit
from sgdphases.estimators.backends.torch.rules.rule import Factors, NotSampleWise, as_float
from sgdphases.estimators.backends.torch.tensors import floating, rebuilt, tensors_in


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
    return {name: Explicit(as_float(rows[name].flatten(1))) for name in names}


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
    return {name: Explicit(as_float(row)) for name, row in zip(names, rows, strict=True)}
