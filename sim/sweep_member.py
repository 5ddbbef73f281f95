"""One member of a sweep: run to its end, whatever may happen on the way."""

from dataclasses import dataclass

from sgdphases.estimators.errors import InputError, TrainingDiverged, UsageError
from sgdphases.sim.run_folder import RunFolder, start_folder
from sgdphases.sim.settings import RunSettings
from sgdphases.sim.sweep_plan import Member
from sgdphases.sim.training import advance, prepare


@dataclass(frozen=True)
class Outcome:
    """A member that ended; ``failure`` says why it failed, or is None."""

    member: Member
    failure: str | None


def complete_member(folder: RunFolder, settings: RunSettings) -> str | None:
    """Train a member to its end, from its checkpoint where there is one; why it failed, or None if it did not."""
    try:
        start_folder(folder, settings)  # before anything that may kill the process: it tells which members had begun
        experiment = prepare(settings)
        start = folder.read_checkpoint() if folder.checkpoint.exists() else None
        start_folder(folder, experiment.settings)
        for _ in advance(experiment, folder, start):
            pass
    except (UsageError, InputError, TrainingDiverged, OSError, MemoryError) as error:
        return str(error) or type(error).__name__
    except Exception as error:  # a fault of ours, or of a plugged-in backend: the other members are none the worse
        return f"{type(error).__name__}: {error}"
    return None
