"""The runs behind the figures of Feng & Tu 2021, as sweeps over seeds and noise fractions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sgdphases.estimators.ensemble.spectrum import noise_spectrum
from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.measure import measure_backend
from sgdphases.paper.cleansing_claims import HALF
from sgdphases.sim.cleansing.study import CLEANSING, study_seconds, timed
from sgdphases.sim.data.datasets.folders import holds
from sgdphases.sim.run.schedule import sample_order
from sgdphases.sim.run.settings import RunSettings
from sgdphases.sim.run.training import prepare
from sgdphases.sim.sweep.folder import SweepFolder
from sgdphases.sim.sweep.member import TRAINING, Job
from sgdphases.sim.sweep.plan import SweepPlan, plan_sweep

LEARNING_RATE, BATCH_SIZE = 0.1, 50  # the paper's alpha and B
CLEAN_HIDDEN = (30, 30)  # the network of figures 1 and 2
NOISY_HIDDEN = (100, 100)  # that of figures 3 to 6; the paper's is in its supplement
MIDDLE = "layers.1.weight"  # the weights between the two hidden layers, whose spectrum is figure 2


@dataclass(frozen=True)
class Scale:
    """How much work goes into the figures: samples (None takes all), epochs, checkpoints, spectra, fractions, seeds.

    Those of ``cleansing_*`` are of figure 6, whose checkpoints are the probes; `HALF` is among all fractions.
    """

    clean_samples: int | None
    clean_epochs: int
    noisy_samples: int
    noisy_epochs: int
    image_samples: int
    image_epochs: int
    image_checkpoints: int
    test_samples: int | None
    image_test_samples: int
    checkpoints: int
    clean_spectra: int
    noisy_spectra: int
    fractions: tuple[float, ...]
    seeds: int
    image_seeds: int
    cleansing_samples: int
    cleansing_epochs: int
    cleansing_probes: int
    cleansing_fractions: tuple[float, ...]


FULL = Scale(
    clean_samples=None, clean_epochs=200, noisy_samples=5_000, noisy_epochs=300, image_samples=2_000, image_epochs=150,
    image_checkpoints=40, test_samples=None, image_test_samples=1_000, checkpoints=80, clean_spectra=12,
    noisy_spectra=12, fractions=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), seeds=5, image_seeds=3,
    cleansing_samples=5_000, cleansing_epochs=100, cleansing_probes=40,
    cleansing_fractions=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
)  # fmt: skip
QUICK = Scale(
    clean_samples=1_000, clean_epochs=80, noisy_samples=600, noisy_epochs=120, image_samples=100, image_epochs=4,
    image_checkpoints=6, test_samples=1_000, image_test_samples=100, checkpoints=30, clean_spectra=6,
    noisy_spectra=6, fractions=(0.0, 0.3, 0.5, 0.7), seeds=2, image_seeds=1,
    cleansing_samples=1_000, cleansing_epochs=100, cleansing_probes=16, cleansing_fractions=(0.0, 0.5),
)  # fmt: skip

SWEEPS: dict[str, tuple[str, ...]] = {
    "fig1": ("clean", "cnn", "resnet"),
    "fig2": ("clean",),
    "fig3": ("fractions",),
    "fig4": ("half",),
    "fig5": ("half",),
    "fig6": ("cleansing",),
}
"""Figure -> the sweeps it is drawn from."""

JOBS: dict[str, Job] = {"cleansing": CLEANSING}
"""Sweep -> what is done with its members, where that is not the usual training."""

Runs = list[tuple[dict[str, Any], xr.Dataset]]
"""Finished members of a sweep: where each stands on the axes, and its trajectory, or what else came of it."""


def paper_sweeps(
    figures: Iterable[str], scale: Scale, *, mnist: Path, cifar: Path | None, seeds: int | None, device: str | None
) -> dict[str, SweepPlan]:
    """The sweeps that some figures need, by name, each once.

    Parameters
    ----------
    figures : iterable of str
        Names in `SWEEPS`.
    scale : Scale
    mnist, cifar : Path
        Folders of the data; without CIFAR-10 the sweeps on it are left out.
    seeds : int or None
        Runs that differ in their seed only; None takes the scale's own number, and so does CIFAR-10 for fewer.
    device : str or None
        Given, all is computed by PyTorch on that device; None leaves the choice to each network.

    Raises
    ------
    UsageError
        For numbers that make no sense.
    """
    names = dict.fromkeys(name for figure in figures for name in SWEEPS[figure])
    n_seeds = scale.seeds if seeds is None else seeds
    if n_seeds < 1:
        raise UsageError(f"seeds = {n_seeds}: give at least 1.")
    on = {} if device is None else {"backend": "torch", "device": device}
    common = dict(learning_rate=LEARNING_RATE, batch_size=BATCH_SIZE, **on)
    digits = dict(dataset="mnist", data_dir=str(mnist), test_size=scale.test_samples, **common)
    clean = dict(train_size=scale.clean_samples, epochs=scale.clean_epochs, hidden=CLEAN_HIDDEN)
    noisy = dict(train_size=scale.noisy_samples, epochs=scale.noisy_epochs, hidden=NOISY_HIDDEN)
    counts = dict(checkpoints=scale.checkpoints)
    images = dict(
        dataset="cifar10", data_dir=str(cifar), train_size=scale.image_samples, test_size=scale.image_test_samples,
        epochs=scale.image_epochs, checkpoints=scale.image_checkpoints, **common,
    )  # fmt: skip
    spectra = dict(spectrum_parameters=(MIDDLE,))
    bases: dict[str, dict[str, Any]] = {
        "clean": {**digits, **clean, **counts, **spectra, "spectra": scale.clean_spectra},
        "cnn": {**images, "network": "cnn"},
        "resnet": {**images, "network": "resnet"},
        "fractions": {**digits, **noisy, **counts, "alignment_batches": 0},
        "half": {
            **digits, **noisy, **counts, **spectra, "spectra": scale.noisy_spectra, "alignment_batches": 0,
            "noise_fraction": HALF,
        },
        "cleansing": {
            **digits, "train_size": scale.cleansing_samples, "epochs": scale.cleansing_epochs, "hidden": NOISY_HIDDEN,
            "checkpoints": scale.cleansing_probes,
        },
    }  # fmt: skip
    fractions = {"fractions": scale.fractions, "cleansing": scale.cleansing_fractions}
    plans = {}
    for name in names:
        on_images = name in ("cnn", "resnet")
        if on_images and cifar is None:
            continue
        axes: dict[str, Any] = {"noise_fraction": fractions[name]} if name in fractions else {}
        axes["seed"] = tuple(range(min(n_seeds, scale.image_seeds) if on_images else n_seeds))
        base = {key: value for key, value in bases[name].items() if value is not None}
        plans[name] = plan_sweep(base, axes, "cleansing" if job_of(name) is CLEANSING else "training")
    return plans


def data_folder(root: Path, name: str) -> Path | None:
    """The folder of "mnist" or "cifar10": below ``root``, or ``root`` itself; None where its files are in neither."""
    return next((folder.absolute() for folder in (root / name, root) if holds(folder, name)), None)


def job_of(name: str) -> Job:
    """What a sweep, by its name, does with its members."""
    return JOBS.get(name, TRAINING)


def waiting(folder: SweepFolder, plan: SweepPlan, job: Job = TRAINING) -> list[RunSettings]:
    """Settings of the members that have not ended yet."""
    found = plan.members()
    return [member.settings for member in found if not job.is_finished(folder.member(member), member.settings)]


def finished(folder: SweepFolder, plan: SweepPlan, job: Job = TRAINING) -> Runs:
    """Members that ended, and what came of them."""
    runs = []
    for member in plan.members():
        if job.is_finished(folder.member(member), member.settings):
            place = {axis: values[k] for (axis, values), k in zip(plan.axes.items(), member.place, strict=True)}
            runs.append((place, job.read(folder.member(member))))
    return runs


def seconds_of(name: str, left: Sequence[RunSettings]) -> float:
    """About how long members of a sweep take on one core of this machine, from one timing of each part of the first.

    Parameters
    ----------
    name : str
        Of the sweep.
    left : sequence of RunSettings
        Of its members; at least one.

    Raises
    ------
    UsageError, InputError
        As `prepare` does.
    """
    return study_seconds(left) if job_of(name) is CLEANSING else len(left) * _training_seconds(left[0])


def _training_seconds(settings: RunSettings) -> float:
    experiment = prepare(settings)
    data, train = experiment.data, experiment.train
    steps = min(experiment.steps_per_epoch, 200)
    order = sample_order(settings.seed, 0, steps, data.n_samples, settings.batch_size)
    train.train(order[: settings.batch_size], settings.batch_size, settings.learning_rate)  # compile, if need be
    training = timed(lambda: train.train(order, settings.batch_size, settings.learning_rate)) / steps
    measuring = timed(
        lambda: measure_backend(
            train,
            batch_size=settings.batch_size,
            wrong=experiment.wrong,
            alignment_batches=settings.alignment_batches,
            rng=np.random.default_rng(0),
        )
    )
    total = experiment.n_steps * training + len(experiment.marks) * measuring
    if experiment.spectrum is not None:
        backend = experiment.spectrum
        total += len(experiment.spectrum_marks) * timed(
            lambda: noise_spectrum(backend, batch_size=settings.batch_size, n_values=1)
        )
    return total
