"""What batches and answers are nested in: tuples, lists, dictionaries, named tuples and dataclasses, to any depth."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any


def parts(values: Any) -> dict[Any, Any] | None:
    """The parts of a tuple, list, dictionary or dataclass by key, name or number, in order; None for anything else."""
    if isinstance(values, Mapping):
        return dict(values.items())
    if is_dataclass(values) and not isinstance(values, type):
        return {entry.name: getattr(values, entry.name) for entry in fields(values)}
    return dict(enumerate(values)) if isinstance(values, (tuple, list)) else None


def remade(values: Any, others: Sequence[Any]) -> Any:
    """The same kind of thing from other parts, in the order of `parts`."""
    if type(values) is dict:
        return dict(zip(values, others, strict=True))
    if isinstance(values, tuple) and hasattr(values, "_fields"):
        return type(values)(*others)
    if isinstance(values, (tuple, list)):
        return type(values)(others)
    made = copy.copy(values)  # somebody's own class: its other attributes stay
    for key, other in zip(parts(values) or (), others, strict=True):
        if isinstance(values, Mapping):
            made[key] = other
        else:
            object.__setattr__(made, key, other)  # a frozen one, too
    return made


def each_leaf(values: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure with everything that has no parts changed."""
    inside = parts(values)
    return change(values) if inside is None else remade(values, [each_leaf(part, change) for part in inside.values()])


def is_named(values: Any) -> bool:
    """Whether the parts have names: a dictionary, a dataclass, or a named tuple."""
    return isinstance(values, Mapping) or hasattr(values, "_fields") or (is_dataclass(values) and parts(values) != {})


def named_parts(values: Any) -> dict[str, Any]:
    """Parts by name, of what `is_named`."""
    return values._asdict() if hasattr(values, "_asdict") else parts(values) or {}
