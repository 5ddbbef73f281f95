"""The state a run goes on from: weights, step, and every row measured so far, in one file."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sgdphases.estimators.errors import InputError
from sgdphases.sim.data.dataset import Dataset
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
    """

    step: int
    weights: np.ndarray
    rows: dict[str, np.ndarray]
    fingerprint: str


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
        with np.load(path, allow_pickle=False) as stored:
            names, table = stored["names"], stored["table"]
            rows = {str(name): values for name, values in zip(names, table, strict=True)}
            rows |= {name.removeprefix(_ARRAY): stored[name] for name in stored.files if name.startswith(_ARRAY)}
            return Checkpoint(int(stored["step"]), stored["weights"], rows, str(stored["fingerprint"]))
    except FileNotFoundError:
        raise InputError(f"{path} is not there: the run never reached its first checkpoint; start it anew.") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is no usable checkpoint ({error}): restore it from a copy or start the run anew."
        ) from None


def fingerprint(data: Dataset) -> str:
    """Hash of the training and test samples and labels: data that differ in one bit have another."""
    digest = hashlib.sha256()
    for array in (data.x_train, data.y_train, data.x_test, data.y_test):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
