"""What a rule is.

A rule takes the module, its inputs, the derivatives ``delta`` at its output and the number of samples n, and returns
one factor for each parameter by its name.
"""

from collections.abc import Callable
from typing import Any

import torch

Factors = dict[str, Any]
Rule = Callable[[Any, tuple, Any, int], Factors]
"""Derivatives are a list of tensors where the module answers with several; inputs stand in the order of ``forward``."""


class NotSampleWise(Exception):
    """A layer's input or output does not have the samples along its first axis."""


def as_float(values: torch.Tensor) -> torch.Tensor:
    """Half precision as float32, so that squares neither overflow nor vanish."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def positions(values: torch.Tensor, n: int) -> torch.Tensor:
    """(n, ..., width) or (n T, width) as (n, T, width)."""
    if len(values) % n:
        raise NotSampleWise
    return as_float(values).reshape(n, -1, values.shape[-1])
