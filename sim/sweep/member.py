"""One member of a sweep: brought to its end, whatever may happen on the way."""

from collections.abc import Callable
from dataclasses import dataclass

import xarray as xr

from sgdphases.estimators.errors import InputError, TrainingDiverged, UsageError
from sgdphases.sim.run.folder import RunFolder, start_folder
from sgdphases.sim.run.settings import RunSettings
from sgdphases.sim.run.training import advance, prepare
from sgdphases.sim.storage.claims import claim
from sgdphases.sim.sweep.folder import is_finished
from sgdphases.sim.sweep.plan import Member


@dataclass(frozen=True)
class Outcome:
    """A member that ended; ``failure`` says why it failed, or is None."""

    member: Member
    failure: str | None


@dataclass(frozen=True)
class Job:
    """What a sweep does with each of its members.

    Attributes
    ----------
    complete : callable
        Takes a member's folder and settings and brings it to its end; returns why it failed, or None. It writes
        ``config.toml`` before all else, which shows who had begun.
    is_finished : callable
        Takes the same; whether there is nothing left to do.
    read : callable
        Takes the folder of a finished member; returns what came of it.
    """

    complete: Callable[[RunFolder, RunSettings], str | None]
    is_finished: Callable[[RunFolder, RunSettings], bool]
    read: Callable[[RunFolder], xr.Dataset]


def complete_member(folder: RunFolder, settings: RunSettings) -> str | None:
    """Train a member to its end, from its checkpoint where there is one; why it failed, or None if it did not."""

    def train() -> None:
        with claim(folder.path):
            start_folder(folder, settings)  # before anything that may kill the process
            experiment = prepare(settings)
            start = folder.read_checkpoint() if folder.checkpoint.exists() else None
            start_folder(folder, experiment.settings)
            for _ in advance(experiment, folder, start):
                pass

    return failure_of(train)


def failure_of(work: Callable[[], object]) -> str | None:
    """Do some work; why it failed, or None if it did not."""
    try:
        work()
    except (UsageError, InputError, TrainingDiverged, OSError, MemoryError) as error:
        return str(error) or type(error).__name__
    except Exception as error:  # a fault of ours, or of a plugged-in backend: the other members are none the worse
        return f"{type(error).__name__}: {error}"
    return None


TRAINING = Job(complete_member, is_finished, RunFolder.read_trajectory)
"""The usual one: train, and measure along the way."""
