"""The tensors in what a module takes and gives, however it is nested."""

from collections.abc import Iterator
from typing import Any

import torch

from sgdphases.estimators.nested import each_leaf, parts


def tensors_in(values: Any) -> list[torch.Tensor]:
    """All tensors in nested tuples, lists, dictionaries and dataclasses, in order."""
    if isinstance(values, torch.Tensor):
        return [values]
    return [tensor for part in (parts(values) or {}).values() for tensor in tensors_in(part)]


def floating(output: Any) -> list[torch.Tensor]:
    """The tensors of a module's output that can carry a gradient."""
    return [values for values in tensors_in(output) if values.is_floating_point()]


def rebuilt(values: Any, tensors: Iterator[torch.Tensor]) -> Any:
    """The same nested structure with other tensors."""
    return each_leaf(values, lambda leaf: next(tensors) if isinstance(leaf, torch.Tensor) else leaf)
