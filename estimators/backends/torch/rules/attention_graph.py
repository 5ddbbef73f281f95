"""The linear layers inside `torch.nn.MultiheadAttention`, found in the graph that autograd has recorded.

Self-attention calls two products with weights: one for queries, keys and values together, one for the output. Autograd
keeps what these took, and its backward pass knows the derivatives at what they gave: nothing of the attention between
them need be computed again, as the rule in `attention` does. Whatever the graph does not hold in this form (several
inputs, mixed precision, frozen weights, another version of PyTorch) is left to that rule.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import GradientEdge

from sgdphases.estimators.backends.torch.factors import Explicit, Outer
from sgdphases.estimators.backends.torch.rules.rule import Factors, NotSampleWise, as_float

PRODUCTS = {"AddmmBackward0": "_saved_mat1", "MmBackward0": "_saved_self"}  # and where they keep what they took
MOST_NODES = 200  # that a search visits


class Products(NamedTuple):
    """What the two products took, the output's first, shape (positions x samples, width), and where they answered."""

    inputs: tuple[torch.Tensor, ...]
    edges: list[GradientEdge]
    answers: list[torch.Tensor]  # of the shape of what they gave


def products_inside(module: nn.MultiheadAttention, outputs: list[torch.Tensor]) -> Products | None:
    """The two products of a call, from its outputs; None where the graph does not hold them."""
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        return None
    wanted = module.out_proj.weight, module.in_proj_weight
    found: dict[torch.Tensor, Any] = {}
    for node in _nodes([out.grad_fn for out in outputs if out.grad_fn is not None], stop=wanted[1]):
        weight = _weight_of(node)
        if weight is not None and any(weight is each for each in wanted):
            if weight in found:
                return None
            found[weight] = node
    if len(found) < len(wanted):
        return None
    nodes = [found[weight] for weight in wanted]
    inputs = tuple(getattr(node, PRODUCTS[node.name()]).detach() for node in nodes)
    answers = [x.new_empty(1).expand(len(x), len(weight)) for x, weight in zip(inputs, wanted, strict=True)]
    return Products(inputs, [GradientEdge(node, 0) for node in nodes], answers)


def from_products(module: nn.MultiheadAttention, inputs: tuple, deltas: list[torch.Tensor], n: int) -> Factors:
    """The rule for what `products_inside` has found."""
    if len(inputs[0]) % n:
        raise NotSampleWise
    context, x, d_out, d_in = (  # positions come first inside
        as_float(values).unflatten(0, (-1, n)).transpose(0, 1) for values in (*inputs, *deltas)
    )
    return {
        "out_proj.weight": Outer(context[:, None], d_out[:, None]),
        "out_proj.bias": Explicit(d_out.sum(dim=1)),
        "in_proj_weight": Outer(x[:, None], d_in[:, None]),
        "in_proj_bias": Explicit(d_in.sum(dim=1)),
    }


def _nodes(starts: list[Any], stop: torch.Tensor) -> Iterator[Any]:
    """Nodes behind these, but for those behind products with a weight."""
    seen, ahead = set(starts), list(starts)
    while ahead and len(seen) < MOST_NODES:
        node = ahead.pop(0)
        yield node
        if _weight_of(node) is stop:
            continue
        new = [other for other, _ in node.next_functions if other is not None and other not in seen]
        seen.update(new)
        ahead += new


def _weight_of(node: Any) -> torch.Tensor | None:
    """The parameter whose transpose a product has as its second factor."""
    if node.name() not in PRODUCTS:
        return None
    transposed = node.next_functions[-1][0]
    if transposed is None or transposed.name() != "TBackward0":
        return None
    return getattr(transposed.next_functions[0][0], "variable", None)
