"""Everything a measurement could disturb in the user's training loop, put back afterwards."""

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

MOST_OBJECTS = 10_000  # looked through for random generators, such as the transforms of a data set
_Generators = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_PLAIN = (str, bytes, int, float, complex, bool, type(None), np.ndarray, torch.Tensor, type, nn.Module)


@contextmanager
def undisturbed(model: nn.Module, *holders: Any) -> Iterator[None]:
    """Put back random streams, gradients, modes and buffers on leaving.

    Parameters
    ----------
    model : Module
    *holders : any object
        That hold random generators of their own, such as data sets and their transforms.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    own = [(generator, _state(generator)) for holder in holders for generator in generators_in(holder)]
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        for generator, state in own:
            _put_back(generator, state)
        if on_devices:
            torch.cuda.set_rng_state_all(on_devices)
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def wait_for_devices(model: nn.Module) -> None:
    """Until a GPU has done all that it was asked to do."""
    for device in {parameter.device for parameter in model.parameters() if parameter.is_cuda}:
        torch.cuda.synchronize(device)


def generators_in(holder: Any) -> list[Any]:
    """Random generators that an object holds: in its attributes, containers, partial functions and closures."""
    found: list[Any] = []
    waiting, seen = [holder], {id(holder)}
    while waiting and len(seen) < MOST_OBJECTS:
        each = waiting.pop()
        if isinstance(each, _Generators):
            found.append(each)
            continue
        for part in _parts(each):
            if id(part) not in seen and not isinstance(part, _PLAIN):
                seen.add(id(part))
                waiting.append(part)
    return found


def _parts(each: Any) -> list[Any]:
    if isinstance(each, dict):
        return list(each.values())
    if isinstance(each, (list, tuple, set, frozenset)):
        few = list(each)[:1000]
        return [] if few and isinstance(few[0], _PLAIN) and len(each) > 1000 else few
    parts: list[Any] = []
    if isinstance(each, partial):
        parts += [each.func, *each.args, *each.keywords.values()]
    bound = getattr(each, "__self__", None)
    if bound is not None and not isinstance(bound, type(random)):
        parts.append(bound)
    for cell in getattr(each, "__closure__", None) or ():
        with suppress(ValueError):  # an empty cell
            parts.append(cell.cell_contents)
    attributes = getattr(each, "__dict__", None)
    if isinstance(attributes, dict):
        parts += attributes.values()
    for kind in type(each).__mro__:
        names = vars(kind).get("__slots__", ())
        parts += [getattr(each, name) for name in ([names] if isinstance(names, str) else names) if hasattr(each, name)]
    return parts


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state()


def _put_back(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
