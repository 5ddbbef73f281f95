"""How well cleansing does where the right labels are known: a run, a cleansing, and both held against the truth.

For evaluation only: what is found is found by `sgdphases.sim.cleansing.cleanse.cleanse`, which is given none of this.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from pydantic import ValidationError
from sklearn.metrics import brier_score_loss, roc_auc_score

from sgdphases.estimators.cleansing.mixture import fit_mixture
from sgdphases.estimators.cleansing.wrong_labels import reliability
from sgdphases.estimators.ensemble.scores import all_scores
from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.cleansing.cleanse import WAYS, Cleansing, cleanse, measure_gain
from sgdphases.sim.cleansing.sample_losses import probe_steps, revisit, train_to, trainer
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.run.folder import RunFolder, start_folder
from sgdphases.sim.run.schedule import steps_per_epoch
from sgdphases.sim.run.settings import RunSettings, make_settings, read_settings
from sgdphases.sim.run.training import noisy_data
from sgdphases.sim.storage.claims import claim
from sgdphases.sim.storage.netcdf import read_netcdf, write_netcdf
from sgdphases.sim.sweep.member import Job, failure_of

EDGES = np.linspace(0, 8, 81)  # of the bins that losses are counted in, in nats; the last holds all beyond, too
HALVES = (0.5,)  # where the fit at every probe begins: the upper half of the losses
_TIMED_EPOCHS = 2

SCALARS = {
    "wrong_share": ("", "share of the training labels that are really wrong"),
    "estimated_share": ("r", "share of wrong labels as estimated; 0 where none are seen"),
    "t_clean": ("t_c", "epoch of the probe that agrees best with all others"),
    "window_start": ("", "first epoch of the window around t_c"),
    "window_end": ("", "last epoch of the window around t_c"),
    "loss_threshold": ("l_c", "loss, in nats, where both fitted densities are equal"),
    "between_thresholds": ("", "share of samples between the two choices of l_c: equal densities, middle of the means"),
    "memorised": ("", "share of the flagged labels that have been learnt at the end of the run"),
    "roc_area": ("AUC", "area under the ROC curve of the losses around t_c"),
    "brier": ("", "Brier score of the probabilities of being wrong"),
    "calibration": ("", "mean distance of these probabilities from the shares of wrong labels"),
    "flagged": ("", "share of the samples removed"),
    "wrong_removed": ("", "share of the wrong labels removed"),
    "right_kept": ("", "share of the right labels kept"),
    "accuracy_n": ("a_n", "test accuracy without cleansing"),
    "accuracy_p": ("a_p", "test accuracy with the right labels only"),
    **{f"accuracy_{way}": ("a_c", f"test accuracy with cleansing ({way})") for way in WAYS},
    **{f"cleansing_gain_{way}": ("Q", f"(a_c - a_n) / (a_p - a_n) ({way})") for way in WAYS},
}
"""Name -> symbol and meaning of what a study has one number of. NaN where it has no meaning."""
ALONG = {
    "train_error": ("ε_tr", "fraction of training samples not given their label"),
    "test_error": ("ε_te", "fraction of test samples not given their label"),
    "error_c": ("ε_c", "error on right labels"),
    "error_w": ("ε_w", "error on wrong labels"),
    "loss_c": ("L_c", "mean loss of right labels, in nats"),
    "loss_w": ("L_w", "mean loss of wrong labels, in nats"),
    "separation": ("", "area under the ROC curve of the losses at this probe"),
    "fitted_share": ("r", "weight of the upper of two Gaussians fitted to all losses"),
    "mean_c": ("m_c", "mean of the lower one, in nats"),
    "mean_w": ("m_w", "mean of the upper one, in nats"),
    "deviation_c": ("s_c", "standard deviation of the lower one, in nats"),
    "deviation_w": ("s_w", "standard deviation of the upper one, in nats"),
    "fit_distance": ("", "Kolmogorov and Smirnov's distance of the losses from the fit"),
}
"""Likewise of what there is a number of at the start and at every probe."""
FITTED = {
    "fitted_share": "fraction", "mean_c": "mean_c", "mean_w": "mean_w", "deviation_c": "deviation_c",
    "deviation_w": "deviation_w", "fit_distance": "distance",
}  # fmt: skip
"""Which of them are of the paper's fit, two Gaussians of the losses themselves, and what a `LossMixture` calls them."""


def measure_cleansing(settings: RunSettings) -> xr.Dataset:
    """Cleanse the training set of these settings, and say how well that went (Feng & Tu 2021, section 5).

    Trains some five times: to find the wrong labels and back to phase II, on the right labels only, on those kept (from
    t_c on, and from the start), and once more through the weights of the first time, to record what happens there.

    Parameters
    ----------
    settings : RunSettings
        Of classes, with a test set; labels that no noise is added to are taken for right. ``checkpoints`` is the
        number of probes.

    Returns
    -------
    xarray.Dataset
        `SCALARS`; `ALONG` against "step" (with its coordinate "epoch"): at the start, and at every probe; and
        "count_c", "count_w", shape (step, bin): how many losses of right and wrong labels lie between `EDGES`.

    Raises
    ------
    UsageError
        For settings that make no sense together, and for regression.
    InputError
        For data that cannot be used, or fewer than three probes.
    TrainingDiverged
        If a loss is no longer finite.
    """
    data = noisy_data(settings)
    if data.n_classes is None:
        raise UsageError(f"dataset = {settings.dataset!r} is a regression: only labels of classes can be cleansed.")
    wrong = np.zeros(data.n_samples, bool) if data.wrong is None else data.wrong
    found = cleanse(settings, data.x_train, data.y_train, data.n_classes)
    run = _along_the_run(settings, data, wrong)
    numbers = _judged(found, wrong)
    if wrong.any():
        numbers |= measure_gain(settings, data, found)
    else:
        numbers["accuracy_n"] = numbers["accuracy_p"] = 1 - float(run["test_error"][-1])
    return run.assign(
        {
            name: ((), float(numbers.get(name, np.nan)), {"symbol": symbol, "long_name": text})
            for name, (symbol, text) in SCALARS.items()
        }
    ).assign_attrs(settings=settings.model_dump_json())


def _judged(found: Cleansing, wrong: np.ndarray) -> dict[str, float]:
    """What needs no further training."""
    mixture, probability, keep, loss = found.found.mixture, found.found.probability, found.keep, found.consensus.loss
    start, end = found.consensus.window
    known = {
        "wrong_share": wrong.mean(),
        "estimated_share": found.found.noise_fraction,
        "t_clean": found.consensus.t_clean,
        "window_start": start,
        "window_end": end,
        "memorised": found.memorised,
        "brier": brier_score_loss(wrong, probability),
        "calibration": calibration_error(wrong, probability),
        "flagged": 1 - keep.mean(),
        "right_kept": keep[~wrong].mean(),
    }
    if found.found.has_noise and np.isfinite(mixture.loss_threshold):
        low, high = sorted((mixture.loss_threshold, mixture.midpoint))
        known |= {"loss_threshold": mixture.loss_threshold, "between_thresholds": ((low < loss) & (loss < high)).mean()}
    if wrong.any():
        known |= {"roc_area": roc_auc_score(wrong, found.score), "wrong_removed": 1 - keep[wrong].mean()}
    return {name: float(value) for name, value in known.items()}


def _along_the_run(settings: RunSettings, data: Dataset, wrong: np.ndarray) -> xr.Dataset:
    """Errors and losses of both populations at the start and at every probe, passing through the same weights."""
    steps = [0, *map(int, probe_steps(settings, data.n_samples))]
    rows: list[dict[str, Any]] = []
    for _, backend in revisit(settings, data.x_train, data.y_train, data.n_outputs, steps):
        if backend is None:
            continue
        scores, test = all_scores(backend), all_scores(backend.on(data.x_test, data.y_test))
        row = {"train_error": 1 - scores.correct.mean(), "test_error": 1 - test.correct.mean()}
        for part, mask in (("c", ~wrong), ("w", wrong)):
            counts, _ = np.histogram(np.clip(scores.loss[mask], EDGES[0], EDGES[-1]), EDGES)
            row[f"count_{part}"] = counts.astype(np.int32)
            if mask.any():
                row |= {f"error_{part}": 1 - scores.correct[mask].mean(), f"loss_{part}": scores.loss[mask].mean()}
        if wrong.any():
            row["separation"] = roc_auc_score(wrong, scores.loss)
            fit = fit_mixture(scores.loss, "loss", starts=HALVES)
            row |= {column: getattr(fit, name) for column, name in FITTED.items()}
        rows.append(row)
    variables: dict[str, Any] = {
        name: ("step", [float(row.get(name, np.nan)) for row in rows], {"symbol": symbol, "long_name": text})
        for name, (symbol, text) in ALONG.items()
    }
    for part, text in (("c", "right"), ("w", "wrong")):
        counts = np.array([row[f"count_{part}"] for row in rows])
        variables[f"count_{part}"] = (("step", "bin"), counts, {"long_name": f"losses of {text} labels in each bin"})
    per_epoch = steps_per_epoch(data.n_samples, settings.batch_size)
    coordinates = {
        "step": ("step", steps, {"long_name": "SGD steps done"}),
        "epoch": ("step", np.array(steps) / per_epoch, {"long_name": "passes over the training set"}),
        "loss": ("bin", (EDGES[1:] + EDGES[:-1]) / 2, {"long_name": "middle of a bin of losses", "units": "nat"}),
    }
    return xr.Dataset(variables, coordinates)


def calibration_error(wrong: np.ndarray, probability: np.ndarray) -> float:
    """Mean distance of the share of wrong labels from the probability given, over tenths, weighted by size.

    Parameters
    ----------
    wrong : ndarray of bool, shape (N,)
    probability : ndarray, shape (N,)
    """
    counts, said, found = reliability(wrong, probability)
    return float(np.nansum(counts * np.abs(found - said)) / counts.sum())


def study_file(folder: RunFolder) -> Path:
    """Where a member of a study keeps what it measured, beside its ``config.toml``."""
    return folder.path / "cleansing.nc"


def complete_study(folder: RunFolder, settings: RunSettings) -> str | None:
    """Measure one member and write it, whole or not at all; why it failed, or None if it did not.

    A folder that holds a member with other settings is left as it is, and named.
    """

    def measure() -> None:
        if folder.config.exists() and make_settings(read_settings(folder.config)) != settings:
            raise UsageError(
                f"{folder.path} holds a member with other settings: move it away, and this one is measured."
            )
        with claim(folder.path):
            start_folder(folder, settings)  # before anything that may kill the process
            write_netcdf(study_file(folder), measure_cleansing(settings))

    return failure_of(measure)


def is_studied(folder: RunFolder, settings: RunSettings) -> bool:
    """Whether a member has been measured with these settings; one whose file is damaged, or another's, has not."""
    try:
        return RunSettings.model_validate_json(read_study(folder).attrs["settings"]) == settings
    except (InputError, ValidationError):
        return False


def read_study(folder: RunFolder) -> xr.Dataset:
    """What a member measured; raises InputError where the file is missing, damaged, or holds something else."""
    record = read_netcdf(study_file(folder), "record of a cleansing", "the folder of a member that has been measured")
    lacks = [name for name in (*SCALARS, *ALONG, "count_c", "count_w") if name not in record]
    if lacks or "settings" not in record.attrs:
        raise InputError(
            f"{study_file(folder)} is no record of a cleansing (no {', '.join(lacks) or 'settings'}): remove it."
        )
    return record


CLEANSING = Job(complete_study, is_studied, read_study)
"""What a sweep does with its members to see how well cleansing does."""


def study_seconds(waiting: Sequence[RunSettings]) -> float:
    """About how long some members take on one core, from one timing of each part of the first.

    Raises
    ------
    UsageError, InputError
        As `measure_cleansing` does.
    """
    settings = waiting[0]
    data = noisy_data(settings)
    backend = trainer(settings, data.x_train, data.y_train, data.n_outputs)
    per_epoch = steps_per_epoch(data.n_samples, settings.batch_size)
    _train(backend, settings, 0, 1)  # compile, if need be
    training = timed(lambda: _train(backend, settings, 1, _TIMED_EPOCHS * per_epoch)) / _TIMED_EPOCHS
    scoring = timed(lambda: (all_scores(backend), all_scores(backend.on(data.x_test, data.y_test))))
    fitting = timed(lambda: fit_mixture(all_scores(backend).loss, "loss", starts=HALVES))
    total = 0.0
    for each in waiting:
        rest = 3 * (1 - each.noise_fraction) if each.noise_fraction > 0 else 0
        fits = each.checkpoints + 1 if each.noise_fraction > 0 else 0
        total += (2.2 + rest) * each.epochs * training + 2 * each.checkpoints * scoring + fits * fitting
    return total


def _train(backend: Any, settings: RunSettings, start: int, stop: int) -> None:
    for _ in train_to(backend, settings, start, stop):
        pass


def timed(work: Callable[[], Any]) -> float:
    """Seconds that some work takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
