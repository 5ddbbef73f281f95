"""What a model is called with: one tensor, several, or a dictionary of them, samples along the first axis of each."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from sgdphases.estimators.backends.samples import checked_array
from sgdphases.estimators.backends.torch.tensors import rebuilt, tensors_in
from sgdphases.estimators.errors import InputError
from sgdphases.estimators.nested import parts, remade

Index = torch.Tensor | slice | list[int]
Inputs = Any
"""A tensor, or a dictionary, tuple, list or dataclass of such, nested as a model or somebody's loss takes it."""


def is_structured(x: Any) -> bool:
    """Whether a model takes more than a tensor: a dictionary for keywords, a tuple, or a dataclass as it is."""
    return not isinstance(x, list) and parts(x) is not None


def laid_out(x: Any, dtype: torch.dtype, device: torch.device) -> Inputs:
    """The same structure with a tensor for every array; numbers in ``dtype``, integers and booleans as they are.

    None stays None.

    Raises
    ------
    InputError
        If a part holds no finite numbers, or parts have different numbers of samples.
    """
    lengths: dict[str, tuple[int, ...]] = {}

    def tensor(values: Any, name: str) -> Any:
        inside = parts(values)
        if inside is not None:
            return remade(values, [tensor(part, f"{name}[{key!r}]") for key, part in inside.items()])
        if values is None:
            return None
        array = checked_array(values, name)
        if not np.isfinite(array).all():
            raise InputError(f"{name} holds values that are not finite: remove or replace them before measuring.")
        lengths[name] = array.shape[:1]
        array = array.astype(np.int64) if array.dtype.kind in "iu" else array
        found = torch.from_numpy(np.ascontiguousarray(array))
        return (found.to(dtype) if found.is_floating_point() else found).to(device)

    made = tensor(x, "x")
    if len(set(lengths.values())) != 1 or {(), (0,)} & set(lengths.values()):
        sizes = ", ".join(f"{name}: {size[0] if size else 'none'}" for name, size in lengths.items())
        raise InputError(f"the parts of x have no common number of samples ({sizes or 'none'}): give each the same.")
    return made


def n_samples(inputs: Inputs) -> int:
    """Samples in the inputs."""
    return len(tensors_in(inputs)[0])


def each(inputs: Inputs, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
    """The same structure with every tensor changed."""
    return rebuilt(inputs, map(change, tensors_in(inputs)))


def call(module: nn.Module, inputs: Inputs) -> Any:
    """What the module answers."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, tuple) else module(inputs)


def rows(values: torch.Tensor, index: Index) -> torch.Tensor:
    """Some rows; gathered by `index_select`, which takes half the time of indexing."""
    return values.index_select(0, index) if isinstance(index, torch.Tensor) else values[index]


def own_rows(inputs: Inputs, index: Index) -> Inputs:
    """Some samples, to work on in place."""
    return each(inputs, lambda values: rows(values, index).clone() if isinstance(index, slice) else rows(values, index))
