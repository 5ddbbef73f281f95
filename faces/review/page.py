"""`review.html`: suspect labels one by one, decided by a person; one file that needs no server and no network."""

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from typing import Any

import numpy as np

from sgdphases.faces.review.samples import picture_address, shown_row
from sgdphases.sim.cleansing.cleanse import Cleansing
from sgdphases.sim.cleansing.data import LabelledData
from sgdphases.sim.cleansing.folder import CleansingFolder, label_cell
from sgdphases.sim.storage.atomic import write_whole

BEYOND = 50  # samples that are not flagged, shown after those that are
MOST_SAMPLES = 2_000
MOST_BYTES = 40_000_000  # of pictures and rows
MOST_COLUMNS = 100  # of a table


def write_review(folder: CleansingFolder, labelled: LabelledData, found: Cleansing, order: np.ndarray) -> None:
    """Write the page of a cleansing.

    Parameters
    ----------
    folder : CleansingFolder
        Its ``labels.csv`` is written already: decisions are kept under its mark.
    labelled : LabelledData
    found : Cleansing
    order : ndarray of int, shape (N,)
        Samples, the most suspect first; those flagged stand before the others.

    Raises
    ------
    InputError
        If the page cannot be written.
    """
    flagged = int((~found.keep).sum())
    data = review_data(folder.labels_mark(), labelled, found, order[: flagged + BEYOND])
    text = review_page(f"Suspect labels: {labelled.data.name}", _note(data, flagged, len(order)), data)
    write_whole(folder.review, lambda part: part.write_text(text, encoding="utf-8"))


def review_data(key: str, labelled: LabelledData, found: Cleansing, order: np.ndarray) -> dict[str, Any]:
    """What the page shows, as plain values: at most `MOST_SAMPLES` samples, and `MOST_BYTES` of pictures and rows.

    Each item holds i, the number of the sample; c and p, its file or row as a cell of a table and as it is shown; g and
    s, the given and the suggested class; w, the probability that it is wrong; f, whether it is flagged; and x, a
    picture, or r, the cells of a row.
    """
    source, given, suggested = labelled.source, labelled.data.y_train, found.suggested
    places = () if source is None else source.places
    items: list[dict[str, Any]] = []
    columns: list[str] = []
    used = 0
    for sample in map(int, order[:MOST_SAMPLES]):
        item: dict[str, Any] = {
            "i": sample, "g": int(given[sample]), "s": int(suggested[sample]),
            "w": round(float(found.found.probability[sample]), 4), "f": int(not found.keep[sample]),
        }  # fmt: skip
        if source is not None:
            place = places[labelled.index[sample]]
            item |= {"c": label_cell(place), "p": str(place)}
        address = picture_address(labelled, sample)
        if address is None:
            row = shown_row(labelled, sample)
            columns = [name for name, _ in row]
            item["r"] = [value for _, value in row[:MOST_COLUMNS]]
            used += sum(map(len, item["r"]))
        else:
            item["x"] = address
            used += len(address)
        if used > MOST_BYTES:
            break
        items.append(item)
    return {
        "key": key,
        "place": None if source is None else source.place,
        "classes": [str(name) for name in labelled.classes.tolist()],
        "cells": [str(label_cell(name)) for name in labelled.classes.tolist()],
        "columns": columns[:MOST_COLUMNS],
        "hidden": max(len(columns) - MOST_COLUMNS, 0),
        "items": items,
    }


def review_page(title: str, note: str, data: dict[str, Any]) -> str:
    """The page as one text: title and note are plain text, data as `review_data` gives them."""
    style, script = (_part(name) for name in ("review.css", "review.js"))
    allowed = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    parts = {
        "title": html.escape(title),
        "note": html.escape(note),
        "policy": allowed,
        "style": style,
        "script": script,
        "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    }
    return re.sub(r"{{(\w+)}}", lambda found: parts[found[1]], _part("review.html"))


def _note(data: dict[str, Any], flagged: int, n_samples: int) -> str:
    shown = len(data["items"])
    first = min(flagged, shown)
    what = f"{flagged:,} of {n_samples:,} labels are flagged" if flagged else "No label is flagged"
    limits = f"{MOST_SAMPLES:,} samples and {MOST_BYTES // 1_000_000} MB"
    is_cut = shown < min(flagged + BEYOND, n_samples)
    most = f" A page holds at most {limits}: the others are in labels.csv." if is_cut else ""
    listed = f"the {first:,} most suspect of them" if first < flagged else "all of them"
    beyond = f"the {shown - first:,} most suspect" + (" others" if flagged else "")
    both = " and ".join([listed] * (first > 0) + [beyond] * (shown > first))
    return (
        f"{what}. Shown here, the most suspect first: {both or 'none'}.{most} What you decide is kept in this browser. "
        "Save it as decisions.csv, then run: sgdphases apply decisions.csv --out NEW"
    )


def _part(name: str) -> str:
    return files("sgdphases.faces.review").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
