"""Runs compared phase by phase: which of the paper's signatures they share, and their curves against phase time."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.estimators.phases.find import find_phases, phase_medians
from sgdphases.estimators.phases.phase_time import KINDS, phase_kind, phase_time
from sgdphases.estimators.phases.records import Phases
from sgdphases.estimators.phases.signatures import signatures

ACTIVITIES = (
    "activity",
    "activity_c",
    "activity_w",
    "directed_activity",
    "directed_activity_c",
    "directed_activity_w",
)


@dataclass(frozen=True)
class Finding:
    """One signature in one phase, run by run.

    Attributes
    ----------
    phase, claim : str
    shown : dict of bool or None
        By the run's name; None where it cannot be decided or the run never reached the phase.
    agreed : bool or None
        Whether all runs give the same verdict; None where no two differ but one at least gives none.
    """

    phase: str
    claim: str
    shown: dict[str, bool | None]
    agreed: bool | None


@dataclass(frozen=True)
class Comparison:
    """Runs of one kind of phases, side by side.

    Attributes
    ----------
    phases : dict of Phases
        By the run's name, in the order given.
    findings : tuple of Finding
        In the order of the phases.
    medians : dict of dict of dict of float
        By the run's name, phase and variable: the median over the checkpoints of the phase.
    curves : dict of xarray.Dataset
        By the run's name: what `on_phase_time` returns.
    """

    phases: dict[str, Phases]
    findings: tuple[Finding, ...]
    medians: dict[str, dict[str, dict[str, float]]]
    curves: dict[str, xr.Dataset]

    @property
    def kind(self) -> tuple[str, ...]:
        """Names of all phases of the kind that these runs show."""
        return phase_kind(next(iter(self.phases.values())))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; None for what is unknown."""
        return {
            "phases": {run: phases.to_dict() for run, phases in self.phases.items()},
            "signatures": [asdict(finding) for finding in self.findings],
            "medians": {
                run: {
                    phase: {name: value if np.isfinite(value) else None for name, value in values.items()}
                    for phase, values in table.items()
                }
                for run, table in self.medians.items()
            },
        }


def compare(trajectories: Mapping[str, xr.Dataset], names: tuple[str, ...] = ACTIVITIES) -> Comparison:
    """Find the phases of several runs, and what they have in common.

    Parameters
    ----------
    trajectories : mapping of xarray.Dataset
        By the name each run is to carry, two at least.
    names : tuple of str
        Variables whose medians are wanted.

    Returns
    -------
    Comparison

    Raises
    ------
    UsageError
        For fewer than two runs, and for runs of different kinds of phases, such as two and four.
    InputError
        For a run without any phase.
    """
    if len(trajectories) < 2:
        raise UsageError(f"{len(trajectories)} run is nothing to compare: name two at least.")
    phases = {run: find_phases(trajectory) for run, trajectory in trajectories.items()}
    for run, found in phases.items():
        if not found.found:
            reason = next(iter(found.not_reached.values()), "unknown")
            raise InputError(f"{run} shows no phases ({reason}): leave it out.")
    first, *others = phases
    for other in others:
        if phase_kind(phases[other]) != phase_kind(phases[first]):
            one, another = sorted((first, other), key=lambda run: len(phase_kind(phases[run])))
            raise UsageError(
                f"{one} shows {KINDS[phase_kind(phases[one])]}, {another} {KINDS[phase_kind(phases[another])]}: "
                "they have no phase in common; compare runs of one kind."
            )
    return Comparison(
        phases,
        _findings(trajectories, phases),
        {run: _medians(trajectories[run], found, names) for run, found in phases.items()},
        {run: on_phase_time(trajectories[run], found) for run, found in phases.items()},
    )


def on_phase_time(trajectory: xr.Dataset, phases: Phases) -> xr.Dataset:
    """A trajectory on the clock of its phases, its activities in units of its own.

    Parameters
    ----------
    trajectory : xarray.Dataset
    phases : Phases
        Found in it, one phase at least.

    Returns
    -------
    xarray.Dataset
        With a further coordinate "tau" (`phase_time`), and all `ACTIVITIES` divided by one number: the activity A at
        the end of the first phase (linear in the logarithm of the epoch between checkpoints), kept as the attribute
        "activity_unit". Ratios of activities stay as they are. NaN where that A is 0.
    """
    unit = _at(trajectory, "activity", phases.found[0].end)
    tau = phase_time(trajectory["epoch"].to_numpy(), phases)
    scaled = {
        name: (trajectory[name] / (unit if unit > 0 else np.nan)).assign_attrs(trajectory[name].attrs)
        for name in ACTIVITIES
        if name in trajectory
    }
    return trajectory.assign(scaled).assign_coords(tau=("step", tau)).assign_attrs(activity_unit=unit)


def _at(trajectory: xr.Dataset, name: str, epoch: float) -> float:
    """Value at an epoch above 0, from checkpoints above 0 where there are any."""
    known = trajectory["epoch"].to_numpy() > 0
    if epoch <= 0 or not known.any():
        return float(trajectory[name][0])
    place, values = (trajectory[each].to_numpy()[known] for each in ("epoch", name))
    return float(np.interp(np.log(epoch), np.log(place), values))


def _findings(trajectories: Mapping[str, xr.Dataset], phases: Mapping[str, Phases]) -> tuple[Finding, ...]:
    verdicts = {
        run: {(each.phase, each.claim): each.shown for each in signatures(trajectories[run], found)}
        for run, found in phases.items()
    }
    kind = phase_kind(next(iter(phases.values())))
    every = dict.fromkeys(key for known in verdicts.values() for key in known)
    keys = sorted(every, key=lambda key: kind.index(key[0]))
    found = []
    for phase, claim in keys:
        shown = {run: known.get((phase, claim)) for run, known in verdicts.items()}
        values = set(shown.values())
        agreed = False if {True, False} <= values else None if None in values else True
        found.append(Finding(phase, claim, shown, agreed))
    return tuple(found)


def _medians(trajectory: xr.Dataset, phases: Phases, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    table = phase_medians(trajectory, phases, names)
    return {phase.name: values for phase, values in zip(phases.found, table, strict=True)}
