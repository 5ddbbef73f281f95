"""Which parameters are measured, by name."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from sgdphases.estimators.errors import UsageError


def chosen_parameters(names: Sequence[str], wanted: str | Sequence[str] | None) -> list[str]:
    """Names that match, in the model's order.

    Parameters
    ----------
    names : sequence of str
        The model's trainable parameters.
    wanted : str, sequence of str, or None
        Names, or patterns with ``*`` and ``?``; None takes all.

    Raises
    ------
    UsageError
        If a name or pattern fits no trainable parameter.
    """
    if wanted is None:
        return list(names)
    patterns = [wanted] if isinstance(wanted, str) else list(wanted)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                f"parameters = {pattern!r}: no trainable parameter is called so; there are {_some(names)}."
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "none"
