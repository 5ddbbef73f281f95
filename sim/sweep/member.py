"""One member of a sweep: trained to its end, or the reason why not."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from sgdphases.estimators.errors import InputError, TrainingDiverged, UsageError
from sgdphases.sim.run.checkpoint import Checkpoint
from sgdphases.sim.run.folder import RunFolder, start_folder
from sgdphases.sim.run.settings import RunSettings, settings_toml
from sgdphases.sim.run.training import advance, prepare
from sgdphases.sim.run.trajectory import last_epoch
from sgdphases.sim.storage.atomic import write_whole
from sgdphases.sim.storage.claims import claim
from sgdphases.sim.storage.folders import created
from sgdphases.sim.storage.netcdf import write_netcdf
from sgdphases.sim.sweep.folder import SweepFolder, is_finished, results_of
from sgdphases.sim.sweep.plan import Member
from sgdphases.sim.sweep.results import Ended, places, read_ended

LONG = 5.0  # seconds, from which on a member has a run folder, and checkpoints to go on from


@dataclass(frozen=True)
class Outcome:
    """A member that ended; ``failure`` says why it failed, or is None.

    ``ended``: what it measured, where that is not in a folder of its own.
    """

    member: Member
    failure: str | None
    ended: Ended | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Job:
    """What a sweep does with each of its members.

    Attributes
    ----------
    complete : callable
        Takes a member's folder and settings and brings it to its end. Returns why it failed; or what is to be kept in
        the sweep's results; or None where all of it stands in the folder.
    is_finished : callable
        Takes the same; whether there is nothing left to do.
    read : callable
        Takes the folder of a finished member; returns what came of it.
    """

    complete: Callable[[RunFolder, RunSettings], str | Ended | None]
    is_finished: Callable[[RunFolder, RunSettings], bool]
    read: Callable[[RunFolder], xr.Dataset]


class LateFolder:
    """What a member's run is kept in: memory for its first seconds, its folder from then on.

    Parameters
    ----------
    folder : RunFolder
    settings : RunSettings
        To be written into the folder, as they were chosen for the data.
    claims : ExitStack
        Holds the claim of the folder, once there is one.
    begun : bool
        Whether there is: something in the folder to go on from.
    """

    def __init__(self, folder: RunFolder, settings: RunSettings, claims: ExitStack, begun: bool):
        self.path, self.config, self.checkpoint = folder.path, folder.config, folder.checkpoint
        self.ended: Ended | None = None
        self._folder, self._settings, self._claims, self._is_there = folder, settings, claims, begun
        self._begun = time.monotonic()

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint, in the folder if the run has been going on for `LONG`."""
        self._latest = checkpoint
        if not self._is_there and time.monotonic() - self._begun > LONG:
            self._claims.enter_context(claim(self.path))
            start_folder(self._folder, self._settings)
            self._is_there = True
        if self._is_there:
            self._folder.save(checkpoint)

    def publish(self, rows: dict[str, np.ndarray], steps_per_epoch: int, sizes: dict[str, float]) -> None:
        """Bring the trajectory up to date: in the folder, or as what `ended` holds."""
        if self._is_there:
            self._folder.publish(rows, steps_per_epoch, sizes)
            self.ended = None
        else:
            self.ended = Ended(settings_toml(self._settings), self._latest, steps_per_epoch, sizes)


def complete_member(folder: RunFolder, settings: RunSettings) -> str | Ended | None:
    """Train a member to its end, from its checkpoint where there is one.

    Returns
    -------
    str, Ended or None
        Why it failed; what it measured, if that took a few seconds only; None if all of it is in its folder.
    """
    kept: list[Ended] = []

    def train() -> None:
        with ExitStack() as claims:
            begun = folder.config.exists()
            if begun:
                claims.enter_context(claim(folder.path))
            start = folder.read_checkpoint() if begun and folder.checkpoint.exists() else None
            experiment = prepare(settings)
            if begun:
                start_folder(folder, experiment.settings)
            keeper = LateFolder(folder, experiment.settings, claims, begun)
            for _ in advance(experiment, keeper, start):
                pass
            if keeper.ended is not None:
                kept.append(keeper.ended)

    failure = failure_of(train)
    return failure if failure is not None or not kept else kept[0]


def failure_of(work: Callable[[], object]) -> str | None:
    """Do some work; why it failed, or None if it did not."""
    try:
        work()
    except (UsageError, InputError, TrainingDiverged, OSError, MemoryError) as error:
        return str(error) or type(error).__name__
    except Exception as error:  # a fault of ours, or of a plugged-in backend: the other members go on
        return f"{type(error).__name__}: {error}"
    return None


def read_member(folder: RunFolder) -> xr.Dataset:
    """The trajectory of a finished member, wherever it is kept; raises InputError where there is none."""
    found = kept_result(folder)
    return folder.read_trajectory() if found is None else found.trajectory()


def kept_result(folder: RunFolder) -> Ended | None:
    """What a member measured, if the results of its sweep hold that and its folder does not."""
    results = results_of(folder)
    if folder.config.exists() or folder.path.name not in places(results):
        return None
    return read_ended(results, folder.path.name)


def measured(folder: RunFolder) -> Ended:
    """What a finished member measured, wherever it is kept; raises InputError where there is none."""
    return kept_result(folder) or from_folder(folder)


def from_folder(folder: RunFolder) -> Ended:
    """What the folder of a finished run holds, made of its checkpoint: reading netCDF takes a hundred times as long."""
    _, attributes = last_epoch(folder.trajectory)
    steps = int(attributes.pop("steps_per_epoch"))
    attributes.pop("settings", None)
    return Ended(folder.config.read_text(encoding="utf-8"), folder.read_checkpoint(), steps, attributes)


def made_folder(folder: RunFolder) -> RunFolder:
    """The folder of a member, made from the results of its sweep where it is not there; anything else stays as it is.

    Raises
    ------
    InputError
        If it cannot be written, or the results are damaged.
    """
    if not SweepFolder(folder.path.parent.parent).plan.is_file():
        return folder
    found = kept_result(folder)
    if found is not None:
        with claim(folder.path), created(folder.path):
            folder.save(found.checkpoint)
            write_netcdf(folder.trajectory, found.trajectory())
            write_whole(folder.config, lambda part: part.write_text(found.config, encoding="utf-8"))  # says it is there
    return folder


def run_at(path: Path) -> RunFolder:
    """The run folder at a path, which may be that of a member of a sweep that has none yet."""
    return made_folder(RunFolder(path))


TRAINING = Job(complete_member, is_finished, read_member)
"""The usual one: train, and measure along the way."""
