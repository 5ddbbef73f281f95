"""Cleaned data in the form in which they came: arrays, a table, a list or a folder of images, a saved data set."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sgdphases.sim.cleansing.data import LabelledData
from sgdphases.sim.data.datasets.own import Source
from sgdphases.sim.storage.atomic import write_whole, write_whole_folder
from sgdphases.sim.storage.folders import created


def ending(labelled: LabelledData, listed: bool = False) -> str:
    """Of the name of what `write_labelled` makes: ".npz", ".csv", …; empty for a folder."""
    source = _source(labelled, listed)
    return ".npz" if source is None else source.ending


def write_labelled(
    labelled: LabelledData, out: Path, index: np.ndarray, labels: np.ndarray, listed: bool = False
) -> None:
    """Write some samples, and the test set where there is one, in the form in which they came.

    Parameters
    ----------
    labelled : LabelledData
    out : Path
        File or folder to be made, whole or not at all; what this function wrote there before is replaced.
    index : ndarray of int, shape (n,)
        Samples to write, in this order.
    labels : ndarray of int, shape (n,)
        Their labels, 0..K-1.
    listed : bool
        Whether files of images are listed rather than copied.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    source = _source(labelled, listed)
    with created(out.parent):
        pass
    if source is None:
        arrays = _arrays(labelled, index, labels)
        write_whole(out, lambda part: np.savez(part, **arrays))
        return
    whole = write_whole if source.ending else write_whole_folder
    whole(out, partial(source.write, index=labelled.index[index], labels=labelled.classes[labels]))


def _source(labelled: LabelledData, listed: bool) -> Source | None:
    return labelled.source.listed() if listed and labelled.source is not None else labelled.source


def _arrays(labelled: LabelledData, index: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Arrays for `numpy.savez`, with the numbers of the samples; with the test set as a data set that can be run."""
    names = ("x_train", "y_train") if labelled.has_test else ("x", "y")
    arrays = dict(zip(names, (labelled.given[index], labelled.classes[labels]), strict=True))
    if labelled.has_test:
        arrays |= {"x_test": labelled.given_test, "y_test": labelled.classes[labelled.data.y_test]}
    return {**arrays, "index": index}
