"""Refuse bad settings and bad data, in words that say how to fix them."""

import difflib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.data.dataset import Dataset

_ROWS_AT_ONCE = 4096


def suggestion(name: str, known: Iterable[str]) -> str:
    """``'; did you mean ...?'`` when a known name is close to `name`, else the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_count(thing: str, value: object, least: int = 1) -> int:
    """`value` as an int, at least `least`; UsageError otherwise."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:  # type: ignore[operator]
        raise UsageError(f"{thing} must be a whole number of at least {least}, not {value!r}")
    return int(value)  # type: ignore[call-overload, no-any-return]


def check_real(thing: str, value: object, least: float = -math.inf, greatest: float = math.inf) -> float:
    """`value` as a finite float between `least` and `greatest`, both included; UsageError otherwise."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not least <= value <= greatest:  # type: ignore
        bounds = f" of at least {least:g}" if least > -math.inf else ""
        bounds += f" and at most {greatest:g}" if greatest < math.inf else ""
        raise UsageError(f"{thing} must be a finite number{bounds}, not {value!r}")
    return float(value)  # type: ignore[arg-type]


def check_choice(thing: str, value: object, choices: Iterable[str]) -> None:
    """UsageError unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        raise UsageError(
            f"{thing}={value!r} is not known; choose one of {', '.join(choices)}{suggestion(str(value), choices)}"
        )


def check_finite(values: np.ndarray, name: str) -> None:
    """InputError, with the count and the first index, where `values` holds NaN or infinity."""
    count, first = 0, None
    for start in range(0, len(values), _ROWS_AT_ONCE):
        bad = ~np.isfinite(values[start : start + _ROWS_AT_ONCE])
        if bad.any():
            count += int(bad.sum())
            if first is None:
                row, *rest = np.unravel_index(int(np.argmax(bad)), bad.shape)
                first = ", ".join(str(int(i)) for i in (start + row, *rest))
    if count:
        raise InputError(
            f"{name} holds {count} value(s) that are NaN or infinite, the first at index [{first}]; fix "
            "these values or leave those samples out"
        )


def check_labels(labels: np.ndarray, n_classes: int, name: str) -> None:
    """InputError unless `labels` are integers 0..n_classes-1 of shape (N,)."""
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"{name} must hold one whole number per sample, shape (N,); it has the type {labels.dtype} and "
            f"the shape {labels.shape}"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if outside.size:
        raise InputError(
            f"{name} holds the label {labels[outside[0]]} at index [{outside[0]}] ({outside.size} such in "
            f"all), outside 0..{n_classes - 1}; number the {n_classes} class(es) from 0"
        )


def _check_targets(targets: np.ndarray, name: str) -> None:
    if targets.ndim != 2 or targets.shape[1] == 0 or not np.issubdtype(targets.dtype, np.floating):
        raise InputError(
            f"{name} must hold real targets of shape (N, outputs); it has the type {targets.dtype} and the "
            f"shape {targets.shape}"
        )
    check_finite(targets, name)


def check_dataset(data: Dataset, source: str) -> Dataset:
    """The one validation every loaded data set passes.

    Parameters
    ----------
    data : Dataset
    source : str
        The file or the data set's name, for messages.

    Returns
    -------
    Dataset
        `data` itself.

    Raises
    ------
    InputError
        An array is empty, holds NaN or infinity, has labels outside 0..K-1, or does not fit the others.
    """
    for part, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        x_name, y_name = f"{source}: x_{part}", f"{source}: y_{part}"
        if x.ndim < 2 or not np.issubdtype(x.dtype, np.floating):
            raise InputError(
                f"{x_name} must hold floating-point samples of shape (N, ...); it has the type {x.dtype} and "
                f"the shape {x.shape}; give a single feature the shape (N, 1)"
            )
        if x.size == 0:
            raise InputError(f"{x_name} is empty, shape {x.shape}; at least one sample with one feature is needed")
        check_finite(x, x_name)
        if data.n_classes is None:
            _check_targets(y, y_name)
        else:
            check_labels(y, data.n_classes, y_name)
        if len(x) != len(y):
            raise InputError(f"{x_name} holds {len(x)} samples but y_{part} {len(y)} labels; there must be one each")
    if data.x_train.shape[1:] != data.x_test.shape[1:]:
        raise InputError(
            f"{source}: one sample of x_train has the shape {data.x_train.shape[1:]}, one of x_test "
            f"{data.x_test.shape[1:]}; they must be alike"
        )
    if data.y_train.shape[1:] != data.y_test.shape[1:]:
        raise InputError(
            f"{source}: a target of y_train has {data.y_train.shape[1]} value(s), one of y_test "
            f"{data.y_test.shape[1]}; they must be alike"
        )
    if data.y_clean is not None:
        if data.y_clean.shape != data.y_train.shape:
            raise InputError(
                f"{source}: y_clean has the shape {data.y_clean.shape}, y_train {data.y_train.shape}; "
                "y_clean must hold the right label of every training sample, in the same order"
            )
        if data.n_classes is None:
            _check_targets(data.y_clean, f"{source}: y_clean")
        else:
            check_labels(data.y_clean, data.n_classes, f"{source}: y_clean")
    return data


def some(names: Iterable[object], most: int = 5) -> str:
    """The first few of many names, with commas, and how many more there are."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


@contextmanager
def needs(module: str, extra: str, why: str) -> Iterator[None]:
    """A context in which an optional library is imported; InputError says what to install where it is missing."""
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{why}, which needs {module} ({error}): install it with pip install 'sgdphases[{extra}]'"
        ) from None
