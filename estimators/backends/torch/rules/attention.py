"""Per-sample gradients of `torch.nn.MultiheadAttention`: its projections are linear layers around plain attention.

The loss derivatives at queries, keys and values are found by going back through the attention between them; each
projection's gradient then is a sum over positions of outer products.
"""

import inspect
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from sgdphases.estimators.backends.torch.factors import Explicit, Outer
from sgdphases.estimators.backends.torch.rules.rule import Factors, NotSampleWise, as_float

SIGNATURE = inspect.signature(nn.MultiheadAttention.forward)


class _Given(NamedTuple):
    """What it was called with, samples first: shapes (n, L, E), (n, S, E_k) and (n, S, E_v)."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    bias: torch.Tensor | None  # added to the scores, shape broadcast to (n, heads, L, S)
    average: bool


def attention(module: nn.MultiheadAttention, inputs: tuple, delta: Any, n: int) -> Factors:
    """All its parameters, those of ``out_proj`` among them.

    Raises
    ------
    NotImplementedError
        For what has no rule: inputs without a batch axis, ``add_bias_kv``, ``add_zero_attn``.
    """
    given = _given(module, inputs, n)
    weights, biases = _projections(module)
    deltas = [as_float(each) for each in (delta if isinstance(delta, list) else [delta])]
    d_out = deltas[0] if module.batch_first else deltas[0].transpose(0, 1)
    with torch.enable_grad():
        projected = [
            F.linear(x, weight, bias).requires_grad_(True)
            for x, weight, bias in zip(given[:3], weights, biases, strict=True)
        ]
        q, k, v = (each.unflatten(2, (module.num_heads, -1)).transpose(1, 2) for each in projected)
        scores = (q * module.head_dim**-0.5) @ k.mT
        shares = (scores if given.bias is None else scores + given.bias).softmax(dim=-1)
        context = (shares @ v).transpose(1, 2).flatten(2)
        outputs, ahead = [context], [d_out @ as_float(module.out_proj.weight.detach())]
        if len(deltas) > 1:  # the loss depends on the attention weights, too
            outputs.append(shares.mean(dim=1) if given.average else shares)
            ahead.append(deltas[1])
        pulled = torch.autograd.grad(outputs, projected, ahead)
    found: Factors = {
        "out_proj.weight": Outer(context.detach()[:, None], d_out[:, None]),
        "out_proj.bias": Explicit(d_out.sum(dim=1)),
        "in_proj_bias": Explicit(torch.cat([each.sum(dim=1) for each in pulled], dim=1)),
    }
    if module.in_proj_weight is None:
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        each = zip(names, given[:3], pulled, strict=True)
        return found | {name: Outer(x[:, None], d[:, None]) for name, x, d in each}
    return found | {"in_proj_weight": _joint(given, list(pulled))}


def _given(module: nn.MultiheadAttention, inputs: tuple, n: int) -> _Given:
    bound = SIGNATURE.bind(module, *inputs)
    bound.apply_defaults()
    said = bound.arguments
    if module.bias_k is not None or module.add_zero_attn or said["query"].ndim != 3:
        raise NotImplementedError("added keys and inputs without a batch axis have no rule")
    streams = [as_float(said[name].detach()) for name in ("query", "key", "value")]
    query, key, value = streams if module.batch_first else [each.transpose(0, 1) for each in streams]
    if not len(query) == len(key) == len(value) == n:
        raise NotSampleWise
    bias = None
    mask, padding = said["attn_mask"], said["key_padding_mask"]
    if mask is not None:
        mask = _added(mask, query)
        bias = mask.unflatten(0, (n, module.num_heads)) if mask.ndim == 3 else mask
    if padding is not None:
        ignored = _added(padding, query)[:, None, None]
        bias = ignored if bias is None else bias + ignored
    return _Given(query, key, value, bias, said["average_attn_weights"])


def _added(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A mask as numbers to be added to the scores: minus infinity where a boolean one is true."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill_(mask, float("-inf"))
    return mask.to(like.dtype)


def _projections(module: nn.MultiheadAttention) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
    if module.in_proj_weight is None:
        weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    else:
        weights = list(module.in_proj_weight.chunk(3))
    biases = [None] * 3 if module.in_proj_bias is None else list(module.in_proj_bias.chunk(3))
    return (
        [as_float(weight.detach()) for weight in weights],
        [None if bias is None else as_float(bias.detach()) for bias in biases],
    )


def _joint(given: _Given, pulled: list[torch.Tensor]) -> Outer:
    """The three projections in one weight: a wider layer where all take the same input, otherwise three groups."""
    x = given[:3]
    if x[0].shape == x[1].shape == x[2].shape and x[0].data_ptr() == x[1].data_ptr() == x[2].data_ptr():
        return Outer(x[0][:, None], torch.cat(pulled, dim=2)[:, None])
    longest = max(each.shape[1] for each in x)

    def stacked(streams: list[torch.Tensor]) -> torch.Tensor:
        """Positions that are missing do not matter: their derivatives are zero."""
        return torch.stack([F.pad(each, (0, 0, 0, longest - each.shape[1])) for each in streams], dim=1)

    return Outer(stacked(list(x)), stacked(pulled))
