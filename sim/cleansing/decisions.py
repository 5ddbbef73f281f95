"""What a person decided about suspect labels, and the labels and samples that come of it."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.cleansing.data import LabelledData
from sgdphases.sim.cleansing.folder import CleansingFolder, data_mark, label_cell
from sgdphases.sim.data.datasets.text_table import read_text_table
from sgdphases.sim.storage.text import read_text

KINDS = ("keep", "suggestion", "other", "drop", "skip")
OTHERS = ("keep", "cleanse")
COLUMNS = ("index", "decision", "label", "cleansing")
"""Of the table that the page saves; there are others, for a person to read."""


@dataclass(frozen=True)
class Decision:
    """What becomes of one sample.

    Attributes
    ----------
    sample : int
    kind : str
        One of `KINDS`: the given label stays, becomes the suggested one or another, the sample goes, or is left open.
    label : str
        As a cell of ``labels.csv``; empty where it follows from ``kind``.
    row : int
        Of the table, for messages.
    """

    sample: int
    kind: str
    label: str
    row: int


@dataclass(frozen=True, eq=False)
class Reviewed:
    """Samples that stay, and their labels.

    Attributes
    ----------
    index : ndarray of int, shape (n,)
    labels : ndarray of int, shape (n,)
        0..K-1.
    counts : dict of int
        How many samples were "kept", "relabelled" and "dropped" as decided, "left" as given without a decision, and
        "removed" without one, since `cleanse` flagged them.
    """

    index: np.ndarray
    labels: np.ndarray
    counts: dict[str, int]


def read_decisions(path: Path) -> tuple[str, list[Decision]]:
    """Read a table of decisions, as the page saved it or a spreadsheet after it.

    Returns
    -------
    mark : str
        Of the cleansing that was reviewed: see `CleansingFolder.labels_mark`.
    decisions : list of Decision

    Raises
    ------
    InputError
        The table is missing or damaged, lacks a column, or holds what is no decision.
    """
    table = read_text_table(path)
    lacking = [name for name in COLUMNS if name not in table.columns]
    if lacking:
        raise InputError(f"{path} lacks the column {lacking[0]!r}: give the decisions.csv that review.html saved.")
    places = [table.columns.index(name) for name in COLUMNS]
    found: dict[int, Decision] = {}
    marks = set()
    for cells, row in zip(table.rows(), table.places, strict=True):
        number, kind, label, mark = (cells[place] for place in places)
        kind = kind.strip()
        marks.add(mark.strip())
        if not number.strip().isdecimal() or len(number) > 18:
            raise InputError(f"{path}: row {row} has the index {number[:40]!r}, which is no number of a sample.")
        if kind not in KINDS:
            raise InputError(f"{path}: row {row} says {kind[:40]!r}: write one of {', '.join(KINDS)}.")
        if int(number) in found:
            raise InputError(
                f"{path}: rows {found[int(number)].row} and {row} decide about the same sample: remove one."
            )
        found[int(number)] = Decision(int(number), kind, label, row)
    if len(marks) > 1:
        raise InputError(f"{path} holds decisions about {len(marks)} cleansings: apply them one by one.")
    return marks.pop(), list(found.values())


def reviewed_folder(decisions: Path, mark: str, cleansing: Path | None) -> CleansingFolder:
    """The cleansing that decisions are about: the one named, or the one whose mark they bear near by.

    Raises
    ------
    UsageError
        If the folder holds another, or none is found beside the decisions, here, or in ``cleansed/``.
    InputError
        If the folder named holds no cleansing that has ended.
    """
    if cleansing is not None:
        folder = CleansingFolder(cleansing)
        if folder.labels_mark() != mark:
            raise UsageError(
                f"{decisions} is about another cleansing than {cleansing}, or labels.csv has been changed."
            )
        return folder
    for place in (decisions.parent, Path(), *sorted(Path("cleansed").glob("*"))):
        folder = CleansingFolder(place)
        if folder.labels.is_file() and folder.config.is_file() and folder.labels_mark() == mark:
            return folder
    raise UsageError(
        f"the cleansing that {decisions} is about is neither beside it, nor here, nor in cleansed/: name its folder "
        "with --cleansing."
    )


def reviewed(
    folder: CleansingFolder, labelled: LabelledData, decisions: list[Decision], others: str, path: Path
) -> Reviewed:
    """Carry decisions out.

    Parameters
    ----------
    folder : CleansingFolder
    labelled : LabelledData
        Its data, loaded again.
    decisions : list of Decision
    others : {"keep", "cleanse"}
        What becomes of all other samples, and of those skipped: they stay as given, or go where `cleanse` flagged them.
    path : Path
        Of the decisions, for messages.

    Raises
    ------
    UsageError
        For another word than these.
    InputError
        The data are not those that were cleansed, or a decision names no sample or no class of them.
    """
    if others not in OTHERS:
        raise UsageError(f"--others {others}: choose one of {', '.join(OTHERS)}.")
    given, n = labelled.data.y_train, labelled.data.n_samples
    rows = _label_rows(folder, labelled)
    cells: dict[str, list[int]] = {}
    for number, name in enumerate(labelled.classes.tolist()):
        cells.setdefault(str(label_cell(name)), []).append(number)
    labels = given.copy()
    keep = np.array([row["kept"] == "1" for row in rows]) if others == "cleanse" else np.ones(n, dtype=bool)
    counts = {"kept": 0, "relabelled": 0, "dropped": 0}
    is_open = np.ones(n, dtype=bool)
    for each in decisions:
        if each.sample >= n:
            raise InputError(
                f"{path}: row {each.row} is about sample {each.sample}, but there are only {n}, from 0 on."
            )
        if each.kind == "skip":
            continue
        is_open[each.sample], keep[each.sample] = False, each.kind != "drop"
        if each.kind == "drop":
            counts["dropped"] += 1
            continue
        row = rows[each.sample]
        meant = {"keep": row["given"], "suggestion": row["suggested"]}.get(each.kind)
        if meant is not None and each.label not in ("", meant):
            raise InputError(
                f"{path}: row {each.row} says {each.kind}, which means {meant!r}, and the label {each.label!r}: write "
                "other for another label."
            )
        label = _class(each.label if meant is None else meant, cells, each, path)
        labels[each.sample] = label
        counts["kept" if label == given[each.sample] else "relabelled"] += 1
    if not keep.any():
        raise InputError(f"{path} drops every sample: nothing is left to write.")
    counts |= {"left": int((is_open & keep).sum()), "removed": int((is_open & ~keep).sum())}
    index = np.flatnonzero(keep)
    return Reviewed(index, labels[index], counts)


def _class(text: str, cells: dict[str, list[int]], decision: Decision, path: Path) -> int:
    known = cells.get(text, [])
    if len(known) != 1:
        what = "is no class of the data" if not known else "stands for several classes"
        some = ", ".join(list(cells)[:10])
        raise InputError(
            f"{path}: row {decision.row} has the label {text[:80]!r}, which {what}: these are {some[:300]}."
        )
    return known[0]


def _label_rows(folder: CleansingFolder, labelled: LabelledData) -> list[dict[str, Any]]:
    """The rows of ``labels.csv``, held against the data as they are now."""
    with open(folder.labels, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        mark = json.loads(read_text(folder.summary))["data"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{folder.summary} is damaged ({error}): repeat the cleansing.") from None
    if mark != data_mark(labelled) or len(rows) != labelled.data.n_samples:
        raise InputError(
            f"the data differ from those that {folder.path} was made with: restore them, or cleanse and review anew."
        )
    return rows
