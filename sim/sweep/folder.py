"""A sweep on disk: its plan, a run folder for each member, and what was made of them."""

import json
from dataclasses import dataclass
from pathlib import Path

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.run.folder import RunFolder
from sgdphases.sim.run.settings import RunSettings
from sgdphases.sim.run.trajectory import last_epoch
from sgdphases.sim.storage.atomic import write_whole
from sgdphases.sim.storage.claims import Claim, claim_new
from sgdphases.sim.storage.folders import ReportFolder, created, refuse_full
from sgdphases.sim.storage.text import read_text, write_json
from sgdphases.sim.sweep.plan import Member, SweepPlan, plan_toml, read_plan
from sgdphases.sim.sweep.results import NAME, places


@dataclass(frozen=True)
class SweepFolder(ReportFolder):
    """Where the parts of a sweep stand.

    ``sweep.toml`` (the plan), ``results.bin`` (what members measured), ``members/NAME/`` (a run folder of each that
    takes long, or was asked for), ``failures.json`` (member -> why it failed),
    ``sweep.nc`` (all of it as one labelled data set), ``phases.json`` (those that runs differing in their seed have in
    common), ``figures/`` and ``report.html``.
    """

    @property
    def plan(self) -> Path:
        return self.path / "sweep.toml"

    @property
    def results(self) -> Path:
        return self.path / NAME

    @property
    def failures(self) -> Path:
        return self.path / "failures.json"

    @property
    def dataset(self) -> Path:
        return self.path / "sweep.nc"

    @property
    def phases(self) -> Path:
        return self.path / "phases.json"

    def member(self, member: Member) -> RunFolder:
        return RunFolder(self.path / "members" / member.name)

    def read_plan(self) -> SweepPlan:
        """The plan; raises UsageError where the folder holds no sweep, InputError where its plan is damaged."""
        if not self.plan.is_file():
            raise UsageError(f"{self.path} holds no sweep: there is no {self.plan.name} in it.")
        try:
            text = read_text(self.plan)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.plan} cannot be read ({error}): restore it, or start a new sweep.") from None
        return read_plan(text)

    def read_failures(self) -> dict[str, str]:
        """Why members failed, by name; raises InputError where the file is damaged."""
        try:
            found = json.loads(read_text(self.failures)) if self.failures.exists() else {}
            if not isinstance(found, dict) or not all(isinstance(reason, str) for reason in found.values()):
                raise ValueError("it is no table of reasons")
            return found
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{self.failures} is damaged ({error}): remove it, its members run again.") from None

    def write_failures(self, failures: dict[str, str]) -> None:
        """Replace what `read_failures` gives."""
        write_json(self.failures, failures)


def claim_sweep(out: Path | None, dataset: str, plan: SweepPlan) -> Claim:
    """Claim the folder of a sweep, new or begun by the same plan; None takes the first of ``sweeps/DATASET-001``, …

    Raises
    ------
    UsageError, InputError
        As `check_sweep` does; and where another process is at work in it.
    """
    return claim_new(out, "sweeps", dataset, lambda path: check_sweep(SweepFolder(path), plan))


def check_sweep(folder: SweepFolder, plan: SweepPlan) -> None:
    """Refuse a folder that holds anything but a sweep by this plan; nothing is written.

    Raises
    ------
    UsageError
        If it holds something else.
    InputError
        If the plan in it cannot be read.
    """
    if not folder.plan.exists():
        refuse_full(folder.path)
    elif folder.read_plan() != read_plan(plan_toml(plan)):
        raise UsageError(
            f"{folder.path} holds another sweep, begun with other settings or data: repeat those in "
            f"{folder.plan.name}, or choose another folder with --out."
        )


def start_sweep(folder: SweepFolder, plan: SweepPlan) -> None:
    """Create the folder and write the plan; a folder that holds the same plan is left as it is.

    Raises
    ------
    UsageError, InputError
        As `check_sweep` does; and if the folder cannot be written.
    """
    check_sweep(folder, plan)
    if not folder.plan.exists():
        with created(folder.path):
            write_whole(folder.plan, lambda part: part.write_text(plan_toml(plan), encoding="utf-8"))


def results_of(member: RunFolder) -> Path:
    """The file that holds what a member measured, if it ended within seconds; of the sweep its folder lies in."""
    return member.path.parent.parent / NAME


def is_finished(folder: RunFolder, settings: RunSettings) -> bool:
    """Whether a member's run reaches its last epoch; a trajectory that is damaged does not.

    Raises
    ------
    InputError
        If the file with the results of its sweep is damaged.
    """
    place = places(results_of(folder)).get(folder.path.name)
    if place is not None and place.epoch >= settings.epochs:
        return True
    try:
        return folder.trajectory.exists() and last_epoch(folder.trajectory)[0] >= settings.epochs
    except InputError:
        return False
