"""A cleansing on disk: the settings, what the training has seen so far, and in the end the labels and the data kept."""

import csv
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.cleansing.cleaned import ending, write_labelled
from sgdphases.sim.cleansing.cleanse import Cleansing
from sgdphases.sim.cleansing.data import LabelledData
from sgdphases.sim.run.checkpoint import fingerprint
from sgdphases.sim.run.folder import STUDY
from sgdphases.sim.run.settings import RunSettings, make_settings, read_settings, settings_toml
from sgdphases.sim.storage.atomic import write_whole
from sgdphases.sim.storage.claims import Claim, claim_new
from sgdphases.sim.storage.folders import ReportFolder, created, holds_anything
from sgdphases.sim.storage.text import read_text, write_json
from sgdphases.sim.sweep.folder import SweepFolder

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
HEADING = ("index", "given", "probability_wrong", "suggested", "loss", "kept", "score")


@dataclass(frozen=True)
class CleansingFolder(ReportFolder):
    """Where the parts of a cleansing stand.

    ``config.toml`` (settings, versions), ``options.json`` (of the fit), ``watch.npz`` (weights and losses so
    far; for the recipe for images also ``watch-part-1.npz`` to ``watch-part-3.npz`` and ``watch-planted.npz``),
    ``labels.csv``, ``cleaned.npz`` (or another form, as the data came), ``cleansing.json`` (what was found, in
    numbers), ``figures/``, ``report.html`` and ``review.html``.
    """

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def options(self) -> Path:
        return self.path / "options.json"

    @property
    def watch(self) -> Path:
        return self.path / "watch.npz"

    @property
    def labels(self) -> Path:
        return self.path / "labels.csv"

    def cleaned(self, ending: str) -> Path:
        """The samples kept: ``cleaned.npz``, or whatever the form of the data; a folder has no ending."""
        return self.path / f"cleaned{ending}"

    @property
    def review(self) -> Path:
        return self.path / "review.html"

    @property
    def summary(self) -> Path:
        return self.path / "cleansing.json"

    def check(self, settings: RunSettings, options: dict[str, Any]) -> None:
        """Refuse a folder that holds anything but this very cleansing; touches nothing.

        Raises
        ------
        UsageError
            If it holds something else, or a cleansing with other settings.
        """
        if not holds_anything(self.path):
            return
        if not self.options.is_file():
            raise UsageError(f"{self.path} is there and holds no cleansing: choose another folder with --out.")
        if not self.config.is_file():
            return  # killed between its first two files
        same = make_settings(read_settings(self.config)) == settings
        if not same or self.read_options() != options:
            raise UsageError(
                f"{self.path} holds a cleansing with other settings: repeat those of its config.toml, or choose "
                "another folder with --out."
            )

    def read_options(self) -> Any:
        """What the fit was begun with; raises InputError where the file is damaged."""
        try:
            return json.loads(read_text(self.options))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"{self.options} is damaged ({error}): restore it, or choose another folder with --out."
            ) from None

    def start(self, settings: RunSettings, options: dict[str, Any]) -> None:
        """Create the folder, and write the settings; raises InputError where it cannot be written."""
        with created(self.path):
            write_whole(self.options, lambda part: part.write_text(json.dumps(options) + "\n", encoding="utf-8"))
            write_whole(self.config, lambda part: part.write_text(settings_toml(settings), encoding="utf-8"))

    def write(self, labelled: LabelledData, found: Cleansing) -> Path:
        """Write ``labels.csv``, the samples kept in the form they came in, and ``cleansing.json``.

        Returns
        -------
        Path
            Where the samples kept are: ``cleaned.npz``, ``cleaned.csv``, …
        """
        data, classes, keep, source = labelled.data, labelled.classes, found.keep, labelled.source
        rows: Iterable[Iterable[Any]] = zip(
            range(data.n_samples),
            map(label_cell, classes[data.y_train]),
            (f"{value:.6f}" for value in found.found.probability),
            map(label_cell, classes[found.suggested]),
            (f"{value:.6g}" for value in found.consensus.loss),
            keep.astype(int),
            (f"{value:.6g}" for value in found.score),
            strict=True,
        )
        heading: tuple[str, ...] = HEADING
        if source is not None:
            heading = (HEADING[0], source.place, *HEADING[1:])
            every = source.places
            places = (label_cell(every[number]) for number in labelled.index)
            rows = ((number, place, *rest) for place, (number, *rest) in zip(places, rows, strict=True))

        def write_labels(part: Path) -> None:
            with open(part, "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(heading)
                writer.writerows(rows)

        write_whole(self.labels, write_labels)
        index, cleaned = np.flatnonzero(keep), self.cleaned(ending(labelled, listed=True))
        write_labelled(labelled, cleaned, index, data.y_train[index], listed=True)
        write_json(self.summary, {**summary(found), "data": data_mark(labelled)})
        return cleaned

    def labels_mark(self) -> str:
        """What this cleansing found, as a short name: the same for the same ``labels.csv``.

        Raises
        ------
        InputError
            If there is none.
        """
        try:
            return hashlib.sha256(self.labels.read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise InputError(
                f"{self.labels} cannot be read ({error.strerror or error}): give the folder of an ended cleansing."
            ) from None


def claim_cleansing(out: Path | None, settings: RunSettings, options: dict[str, Any]) -> Claim:
    """Claim the folder of a cleansing, new or begun with the same settings; None takes ``cleansed/DATASET-001``, …

    Raises
    ------
    UsageError, InputError
        As `CleansingFolder.check` does; and where another process is at work in it.
    """
    return claim_new(out, "cleansed", settings.dataset, lambda path: CleansingFolder(path).check(settings, options))


def refuse_study(path: Path) -> None:
    """Raise a UsageError where a folder holds a study of cleansing; `refuse_other_work` refuses what else is no run.

    Raises
    ------
    UsageError
        Naming the command that goes on with it.
    InputError
        If it holds a sweep whose plan is damaged.
    """
    sweep = SweepFolder(path)
    members = sweep.path / "members"
    if sweep.plan.is_file() and (
        sweep.read_plan().job == "cleansing" or next(members.glob("*/cleansing.nc"), None) is not None
    ):
        raise UsageError(STUDY.format(path))


def summary(found: Cleansing) -> dict[str, Any]:
    """What was found, in numbers; None where there is none."""
    mixture, labels = found.found.mixture, found.found
    known = labels.has_noise and np.isfinite(mixture.loss_threshold)
    return {
        "has_noise": labels.has_noise,
        "found_by": labels.found_by,
        "is_learnt": labels.is_learnt,
        "n_samples": len(found.keep),
        "n_flagged": int((~found.keep).sum()),
        "memorised": found.memorised if np.isfinite(found.memorised) else None,
        "noise_fraction": found.share.fraction if found.share.is_known else None,
        "noise_interval": [found.share.low, found.share.high],
        "fitted_fraction": labels.noise_fraction,
        "t_clean": found.consensus.t_clean,
        "window": list(found.consensus.window),
        "loss_threshold": mixture.loss_threshold if known else None,
        "mixture": mixture.kind,
        "separation": mixture.separation,
        "gain": mixture.gain,
        "distance": mixture.distance,
        "label_share": labels.label_share,
        "whole_share": labels.whole_share,
        "outside": None if found.against is None else asdict(found.against),
    }


def data_mark(labelled: LabelledData) -> str:
    """A short name of samples and labels: the same for the same data."""
    return fingerprint(labelled.data)


def label_cell(label: Any) -> Any:
    """A label as a cell of a table: text that a spreadsheet would run as a formula gets an apostrophe before it."""
    if not isinstance(label, str) or not label.startswith(_FORMULA):
        return label
    try:
        float(label)
    except ValueError:
        return f"'{label}"
    return label
