"""What a sweep runs: shared settings, axes, and the members they span, to and from TOML."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import tomli_w

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.run.settings import RunSettings, check_plain_sgd, make_settings

OPTION = "dataset_options."  # begins the name of an axis that is an option of the data set
MOST = 100_000  # members of one sweep


@dataclass(frozen=True)
class Member:
    """One run of a sweep: its name, its place along each axis, and its settings."""

    name: str
    place: tuple[int, ...]
    settings: RunSettings


@dataclass(frozen=True)
class SweepPlan:
    """Settings shared by all runs of a sweep, and those that vary.

    Attributes
    ----------
    base : dict
        Plain settings, as `make_settings` takes them.
    axes : dict of tuple
        Setting -> its values, in order; "dataset_options.NAME" is an option of the data set.
    job : str
        What is done with each member: "training", or "cleansing" in a study of how well wrong labels are found.
    """

    base: dict[str, Any]
    axes: dict[str, tuple[Any, ...]]
    job: str = field(default="training", compare=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(values) for values in self.axes.values())

    @property
    def dimensions(self) -> dict[str, tuple[Any, ...]]:
        """Name of each dimension of the data set that comes out, and its coordinates."""
        return {axis.removeprefix(OPTION): tuple(map(plain, values)) for axis, values in self.axes.items()}

    def members(self) -> list[Member]:
        """Every run, the last axis varying fastest."""
        found = []
        for place in product(*(range(n) for n in self.shape)):
            chosen = {axis: values[k] for (axis, values), k in zip(self.axes.items(), place, strict=True)}
            name = ",".join(f"{axis.removeprefix(OPTION)}={plain(value)}" for axis, value in chosen.items())
            found.append(Member(name.replace("/", "_"), place, make_settings(_combined(self.base, chosen))))
        return found


def plan_sweep(base: Mapping[str, Any], axes: Mapping[str, Sequence[Any]], job: str = "training") -> SweepPlan:
    """A sweep over every combination of the axes' values.

    Parameters
    ----------
    base : mapping
        Settings of all runs.
    axes : mapping
        Setting -> values. An axis wins over the same setting in ``base``.
    job : str
        See `SweepPlan`.

    Returns
    -------
    SweepPlan

    Raises
    ------
    UsageError
        For an axis that is empty, has a value twice or is no setting, a value out of range, or too many members.
    """
    if not axes:
        raise UsageError("nothing is swept: give at least one setting several values, or --seeds.")
    plan = SweepPlan(dict(base), {axis: tuple(values) for axis, values in axes.items()}, job)
    for axis, values in plan.axes.items():
        if not axis.startswith(OPTION) and (axis not in RunSettings.model_fields or axis == "dataset_options"):
            raise UsageError(f"axis {axis!r} is no setting: known are {', '.join(RunSettings.model_fields)}.")
        if not values:
            raise UsageError(f"axis {axis} has no values: give at least one.")
        if len(set(map(plain, values))) < len(values):
            raise UsageError(f"axis {axis} has a value twice: {', '.join(str(plain(v)) for v in values)}.")
    if len(set(plan.dimensions)) < len(plan.axes):
        raise UsageError(f"axes {', '.join(plan.axes)}: a setting and an option of the same name cannot both vary.")
    n_members = prod(plan.shape)
    if n_members > MOST:
        raise UsageError(f"the axes span {n_members} runs: at most {MOST} fit into one sweep; take fewer values.")
    for member in plan.members():  # every combination makes settings
        check_plain_sgd(member.settings)
    return plan


def plan_toml(plan: SweepPlan) -> str:
    """A plan as TOML."""
    base = {name: value for name, value in plan.base.items() if value is not None}
    axes = {axis: [list(v) if isinstance(v, tuple) else v for v in values] for axis, values in plan.axes.items()}
    job = {} if plan.job == "training" else {"job": plan.job}
    return tomli_w.dumps({**job, "axes": axes, "base": base})


def read_plan(text: str) -> SweepPlan:
    """A plan from TOML; raises InputError where it is none."""
    try:
        stored = tomllib.loads(text)
        base, axes = stored["base"], stored["axes"]
        if not isinstance(base, dict) or not isinstance(axes, dict):
            raise ValueError("base and axes must be tables")
        if not all(isinstance(values, list) for values in axes.values()):
            raise ValueError("every axis must have a list of values")
        if not isinstance(base.get("dataset_options", {}), dict):
            raise ValueError("dataset_options must be a table")
        return plan_sweep(base, axes, str(stored.get("job", "training")))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"this is no plan of a sweep ({error}): restore it, or start a new sweep.") from None


def plain(value: Any) -> Any:
    """A value as a coordinate: numbers and words as they are, layers as "100-100"."""
    return ("-".join(map(str, value)) or "none") if isinstance(value, list | tuple) else value


def _combined(base: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    values, options = dict(base), dict(base.get("dataset_options", {}))
    for axis, value in chosen.items():
        if axis.startswith(OPTION):
            options[axis.removeprefix(OPTION)] = value
        else:
            values[axis] = value
    return {**values, "dataset_options": options}
