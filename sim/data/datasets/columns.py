"""From the columns of a table to samples and labels: what is no number, or missing, is refused by name."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sgdphases.estimators.errors import DataWarning, InputError, UsageError
from sgdphases.sim.data.datasets.checks import some, suggestion

LABEL_COLUMNS = ("label", "labels")
"""Taken for the labels where a table has one of them, and nothing else is said."""
LONGEST_LABEL = 1000  # characters
_EXACT = 2**24  # up to which single precision holds whole numbers
_LONGEST_CELL = 300  # characters that are shown
_FEW = 4  # columns that are listed with their numbers


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a table as numbers.

    Attributes
    ----------
    values : ndarray, shape (N, ...), or None
        None where it holds anything but numbers.
    missing : ndarray of bool, shape (N,)
        Rows without a value.
    example : str
        What it holds that is no number, for messages: "text such as 'Berlin'".
    """

    values: np.ndarray | None
    missing: np.ndarray
    example: str = ""


def chosen_columns(
    names: Sequence[str], path: Path, label_column: str | None, drop_columns: str | Sequence[str] | None
) -> tuple[str, list[str]]:
    """The column of the labels, and those of the features.

    Parameters
    ----------
    names : sequence of str
        Of all columns.
    path : Path
    label_column : str or None
        None takes one of `LABEL_COLUMNS`.
    drop_columns : str or sequence of str, or None
        Columns to leave out: a text may hold several with commas between.

    Raises
    ------
    UsageError
        A column is not there, no label column is named, or no feature is left.
    """
    if label_column is None:
        known = [name for name in LABEL_COLUMNS if name in names]
        if len(known) != 1:
            raise UsageError(
                f"which column of {path} holds the labels? Say so with --label-column NAME (option label_column); its "
                f"columns are {some(names, 20)}"
            )
        label_column = known[0]
    texts = [drop_columns] if isinstance(drop_columns, str) else list(drop_columns or ())
    dropped = [name for text in texts for name in ([text] if text in names else _parts(text))]
    for option, wanted in (("label_column", [label_column]), ("drop_columns", dropped)):
        for name in wanted:
            if name not in names:
                listed = f"its columns are {some(names, 20)}{suggestion(name, names)}"
                raise UsageError(f"{option}: {path} has no column {name!r}; {listed}")
    if label_column in dropped:
        raise UsageError(f"the column {label_column!r} of {path} is to hold the labels and to be left out; say which")
    features = [name for name in names if name != label_column and name not in dropped]
    if not features:
        raise UsageError(f"{path} has no column beside the labels that is not left out; one feature is needed")
    return label_column, features


def features(names: Sequence[str], column: Callable[[str], Column], path: Path, places: Sequence[object]) -> np.ndarray:
    """Samples from columns of numbers, shape (N, features); a single column of arrays keeps its shape, (N, ...).

    Whole numbers that single precision holds are float32, all else is float64.

    Parameters
    ----------
    names : sequence of str
    column : callable
        Gives the column of a name.
    path : Path
    places : sequence
        What to call the rows in messages.

    Raises
    ------
    InputError
        Columns that hold no numbers, or rows without a value, all of them named.
    """
    columns = {name: column(name) for name in names}
    text = [name for name, each in columns.items() if each.values is None]
    if text:
        listed = "; ".join(f"{name!r} holds {columns[name].example}" for name in text[:_FEW])
        raise InputError(
            f"{path}: {len(text)} column(s) hold no numbers: {listed}{_and_more(text)}. Leave them out with "
            f"--drop-columns {_flag(text)}, or replace them by numbers"
        )
    found = {name: values for name, each in columns.items() if (values := each.values) is not None}
    lacking = {name: _unusable(columns[name], values) for name, values in found.items()}
    lacking = {name: rows for name, rows in lacking.items() if len(rows)}
    if lacking:
        few = list(lacking.items())[:_FEW]
        listed = "; ".join(f"{len(rows)} in {name!r}, the first in row {places[rows[0]]}" for name, rows in few)
        raise InputError(
            f"{path}: values are missing or infinite: {listed}{_and_more(lacking)}. Fill them in, remove these rows, "
            f"or leave the columns out with --drop-columns {_flag(lacking)}"
        )
    _hint_at_ids(found, path)
    if len(found) == 1 and next(iter(found.values())).ndim > 1:
        return next(iter(found.values()))
    flat = [values.reshape(len(values), -1) for values in found.values()]
    kind = np.float32 if all(map(_is_small, flat)) else np.float64
    return np.concatenate(flat, axis=1, dtype=kind, casting="unsafe")


def check_labels_given(missing: np.ndarray, name: str, path: Path, places: Sequence[object]) -> None:
    """InputError where rows have no label, with their number and the first of them."""
    rows = np.flatnonzero(missing)
    if len(rows):
        raise InputError(
            f"{path}: {len(rows)} label(s) are missing in {name!r}, the first in row {places[rows[0]]}; fill them in, "
            "or remove these rows"
        )


def text_labels(labels: Sequence[str], name: str, path: Path) -> np.ndarray:
    """Text as an array of labels; InputError where one is so long that it can hardly be one."""
    longest = max(labels, key=len, default="")
    if len(longest) > LONGEST_LABEL:
        raise InputError(
            f"{path}: {name!r} holds a text of {len(longest)} characters, {longest[:40]!r}…, which is no label; "
            "name another column with --label-column"
        )
    return np.array(labels, dtype=str)


def shortened(cell: str) -> str:
    """A cell to be looked at, not longer than a few lines."""
    return cell if len(cell) <= _LONGEST_CELL else f"{cell[:_LONGEST_CELL]}…"


def _is_small(values: np.ndarray) -> bool:
    return values.dtype.kind in "biu" and np.abs(values.astype(np.float64)).max(initial=0) <= _EXACT


def _unusable(column: Column, values: np.ndarray) -> np.ndarray:
    wrong = column.missing.copy()
    if values.dtype.kind == "f":
        wrong |= ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    return np.flatnonzero(wrong)


def _hint_at_ids(found: dict[str, np.ndarray], path: Path) -> None:
    """Warn of columns that count the rows: in a sorted table they give the label away."""
    ids = [name for name, values in found.items() if values.ndim == 1 and _counts(values)]
    if ids and len(found) > len(ids):
        warnings.warn(
            f"{path}: {some(map(repr, ids))} looks like a number of the row, and is taken for a feature; leave it out "
            f"with --drop-columns {_flag(ids)}",
            DataWarning,
            4,
        )


def _counts(values: np.ndarray) -> bool:
    return values.dtype.kind in "iu" and len(values) > 2 and bool((np.diff(values.astype(np.int64)) == 1).all())


def _flag(names: Iterable[str]) -> str:
    """Names as one argument, quoted where a shell would part it."""
    listed = list(names)
    text = ",".join(listed[:20]) + (",…" if len(listed) > 20 else "")
    return text if text.replace(",", "").replace("_", "").isalnum() else f'"{text}"'


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _and_more(names: Sequence[str] | dict[str, np.ndarray]) -> str:
    return f"; and {len(names) - _FEW} more" if len(names) > _FEW else ""
