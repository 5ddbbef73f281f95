"""Backends by name: how one is found, and how one is made around a model and data."""

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from typing import Any

from sgdphases.estimators.backend import Backend, to_arrays, to_numpy
from sgdphases.estimators.backends.mlp import MLP
from sgdphases.estimators.errors import UsageError

GROUP = "sgdphases.backends"


def backend_names() -> list[str]:
    """Names under which backends are registered, in alphabetical order."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def backend_class(name: str) -> Any:
    """The registered backend of this name: call it with ``(model, x, y, loss=..., dtype=..., device=...)``.

    Raises
    ------
    UsageError
        If no backend of that name is registered, or it needs a package that is not installed.
    """
    found = _registered(name, tuple(sys.path))
    try:
        return found.load()
    except ModuleNotFoundError as error:
        raise UsageError(
            f"backend = {name!r} needs the package {error.name!r}, which is not installed: "
            f"pip install {error.name!r}, or choose another of {', '.join(backend_names())}."
        ) from error


@cache  # the metadata of everything that is installed are read for it; what is not found is looked for again
def _registered(name: str, path: tuple[str, ...]) -> EntryPoint:
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        raise UsageError(f"backend = {name!r}: registered are {', '.join(backend_names()) or 'none'}.")
    return found[0]


def make_backend(
    model: Any, x: Any, y: Any, *, backend: str | None = None, parameters: Any = None, **options: Any
) -> Backend:
    """A registered backend around a model and data; what is None is left to the backend.

    Raises
    ------
    UsageError
        If no such backend is registered, none suits the model, or it does not know an option.
    InputError
        If data and model do not fit together.
    """
    name = backend or _default_backend(model)
    given = {**options, **({} if parameters is None else {"parameters": parameters})}
    chosen = backend_class(name)
    known = signature(chosen).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for option in given:
            if option not in known:
                raise UsageError(f"{option}: the {name} backend has no such option.")
    return chosen(model, to_arrays(x), to_numpy(y), **given)


def takes_option(model: Any, backend: str | None, option: str) -> bool:
    """Whether the backend that `make_backend` takes knows this option."""
    return option in signature(backend_class(backend or _default_backend(model))).parameters


def _default_backend(model: Any) -> str:
    if isinstance(model, MLP):
        return "numba"
    torch = sys.modules.get("torch")  # a module of it can only exist once it has been imported
    if torch is not None and isinstance(model, torch.nn.Module):
        return "torch"
    raise UsageError(f"no backend is known for a {type(model).__name__}: name one with backend=...")
