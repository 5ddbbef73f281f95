"""The state a run goes on from: weights, step, and every row measured so far, in one file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sgdphases.estimators.errors import InputError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.storage.arrays import read_npz
from sgdphases.sim.storage.atomic import write_whole


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A point along a run.

    Attributes
    ----------
    step : int
        SGD steps done.
    weights : ndarray, shape (P,)
    rows : dict of ndarray
        By name: every measured scalar, shape (checkpoints so far,), float64, "step" among them; and whatever is k
        numbers a checkpoint, shape (checkpoints so far, k), in its own dtype.
    fingerprint : str
        Of the data the run was started on.
    settings : str
        Those that fix the curves, as `sgdphases.sim.run.settings.fixed_settings` writes them; empty in checkpoints of
        before they were kept.
    """

    step: int
    weights: np.ndarray
    rows: dict[str, np.ndarray]
    fingerprint: str
    settings: str = ""


class Rows:
    """The rows of a run as they come, one a checkpoint, in tables with room for all of them.

    Parameters
    ----------
    begun : dict of ndarray
        Those there are already, as in `Checkpoint`.
    most : int
        How many there will be in the end.
    """

    def __init__(self, begun: dict[str, np.ndarray], most: int):
        self.n = len(begun.get("step", ()))
        self._tables = {name: self._table(values[0], most) for name, values in begun.items()} if self.n else {}
        self._most = most
        for name, values in begun.items() if self.n else ():
            self._tables[name][: self.n] = values

    def append(self, row: Mapping[str, Any]) -> None:
        """Add what was measured at a checkpoint; only what the rows before have, if there are any."""
        if not self._tables:
            self._tables = {name: self._table(value, self._most) for name, value in row.items()}
        if self._tables.keys() != row.keys():
            self._tables = {name: table for name, table in self._tables.items() if name in row}
        for name, table in self._tables.items():
            table[self.n] = row[name]
        self.n += 1

    def arrays(self) -> dict[str, np.ndarray]:
        """All of them by name, the first axis that of checkpoints; what is appended later does not change these."""
        return {name: table[: self.n] for name, table in self._tables.items()}

    def some(self, *names: str) -> dict[str, np.ndarray]:
        """Those of `arrays` that have these names."""
        return {name: self._tables[name][: self.n] for name in names if name in self._tables}

    @staticmethod
    def _table(value: Any, most: int) -> np.ndarray:
        first = np.asarray(value)
        return np.empty((most, *first.shape), first.dtype)


_REMEDY = "restore it from a copy or start the run again"
_ARRAY = "array "  # what the names of rows of more than one number a checkpoint begin with in the file


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, replacing the former one in a single move."""
    scalars = {name: values for name, values in checkpoint.rows.items() if values.ndim == 1}
    arrays = {_ARRAY + name: values for name, values in checkpoint.rows.items() if values.ndim > 1}
    names, table = np.array(list(scalars)), np.array(list(scalars.values()), dtype=np.float64)

    def write(part: Path) -> None:
        with open(part, "wb") as file:
            np.savez(
                file,
                step=np.int64(checkpoint.step),
                weights=checkpoint.weights,
                names=names,
                table=table,
                fingerprint=np.array(checkpoint.fingerprint),
                settings=np.array(checkpoint.settings),
                **arrays,  # type: ignore[arg-type]  # none of them is called allow_pickle
            )

    write_whole(path, write)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in the file is executed.

    Raises
    ------
    InputError
        If the file is missing, damaged or no checkpoint.
    """
    try:
        stored = read_npz(path, "checkpoint", _REMEDY)
    except FileNotFoundError:
        raise InputError(f"{path} is not there: the run never reached its first checkpoint; start it again.") from None
    try:
        return checked(stored)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} is no usable checkpoint ({error}): {_REMEDY}.") from None


def checked(stored: dict[str, np.ndarray]) -> Checkpoint:
    """A checkpoint from its arrays; ValueError, KeyError or TypeError where they are not those of one."""
    step, weights, names, table = (stored[name] for name in ("step", "weights", "names", "table"))
    if step.shape != () or step.dtype.kind not in "iu" or step < 0:
        raise ValueError(f"its step is {step.tolist()!r}, no whole number from 0 on")
    if weights.ndim != 1 or weights.dtype.kind != "f":
        raise ValueError(f"its weights have the type {weights.dtype} and the shape {weights.shape}")
    if names.ndim != 1 or table.ndim not in (1, 2) or table.dtype.kind != "f":
        raise ValueError(f"its rows have the names {names.tolist()!r:.60} and the shape {table.shape}")
    rows = {str(name): values for name, values in zip(names, table, strict=True)}
    rows |= {name.removeprefix(_ARRAY): stored[name] for name in stored if name.startswith(_ARRAY)}
    lengths = {len(values) for values in rows.values()}
    if len(lengths) > 1:
        raise ValueError(f"its rows differ in length: {sorted(lengths)}")
    if "step" in rows and (np.any(np.diff(rows["step"]) <= 0) or not rows["step"][-1] <= step):
        raise ValueError(f"its step {step} and the steps of its rows do not go together")
    settings = str(stored["settings"]) if "settings" in stored else ""
    if settings and not isinstance(json.loads(settings), dict):
        raise ValueError("its settings are none")
    return Checkpoint(int(step), weights, rows, str(stored["fingerprint"]), settings)


def fingerprint(data: Dataset) -> str:
    """Hash of the training and test samples and labels: data that differ in one bit have another."""
    digest = hashlib.sha256()
    for array in (data.x_train, data.y_train, data.x_test, data.y_test):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
