"""One labelled data set from all members of a sweep, and single trajectories out of it again."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.estimators.phases.find import find_phases
from sgdphases.estimators.phases.summary import SUMMARY, summarize
from sgdphases.sim.run.settings import settings_toml
from sgdphases.sim.storage.netcdf import read_netcdf
from sgdphases.sim.sweep.folder import SweepFolder, is_finished
from sgdphases.sim.sweep.member import measured
from sgdphases.sim.sweep.plan import SweepPlan, plan_toml, read_plan

SIZES = {
    "n_samples": ("N", "training samples"),
    "n_inputs": ("d", "numbers in one input"),
    "n_test": ("N_te", "test samples"),
    "n_classes": ("K", "classes"),
    "chance_error_train": ("ε_tr,0", "training error of always answering the commonest class"),
    "chance_error": ("ε_te,0", "test error of always answering the commonest class"),
}
"""Attributes of a trajectory -> symbol and meaning; errors are judged by them (`sgdphases.estimators.phases`)."""
MEASURED = "_measured"  # ends the name of a measured quantity that an axis is called by: the noise fraction, realised


def sweep_dataset(folder: SweepFolder, plan: SweepPlan) -> xr.Dataset:
    """Everything that the members of a sweep measured, as far as they ended.

    Parameters
    ----------
    folder : SweepFolder
    plan : SweepPlan
        The folder's own.

    Returns
    -------
    xarray.Dataset
        One dimension an axis, such as "noise_fraction" and "seed", with their values as coordinates, and "checkpoint".
        All scalars of a trajectory by their names, shape (*axes, checkpoints); "step" and "epoch" likewise, as
        coordinates. The numbers of `sgdphases.estimators.phases.summary`, ``finished`` and ``failure``, shape (*axes,).
        What a member did not measure, or did not end, is NaN. Arrays such as the noise spectrum stay with the members.
    """
    failures = folder.read_failures()
    runs: dict[tuple[int, ...], xr.Dataset] = {}
    failed = np.full(plan.shape, "", dtype=object)
    for member in plan.members():
        failed[member.place] = failures.get(member.name, "")
        if is_finished(folder.member(member), member.settings):
            runs[member.place] = measured(folder.member(member)).trajectory(arrays=False)
    length = max((run.sizes["step"] for run in runs.values()), default=0)
    scalars = {str(k): run[k].attrs for run in runs.values() for k in run.variables if run[k].dims == ("step",)}
    table = {name: np.full((*plan.shape, length), np.nan) for name in scalars}
    numbers = {name: np.full(plan.shape, np.nan) for name in (*SUMMARY, *SIZES)}
    for place, run in runs.items():
        for name in scalars:
            if name in run:
                table[name][place][: run.sizes["step"]] = run[name]
        sizes = {name: run.attrs.get(name, np.nan) for name in SIZES}
        for name, value in {**summarize(run, find_phases(run)), **sizes}.items():
            numbers[name][place] = value
    axes = tuple(plan.dimensions)
    meaning = {**SUMMARY, **{name: (*text, "1") for name, text in SIZES.items()}}
    variables: dict[str, Any] = {
        name + MEASURED * (name in axes): ((*axes, "checkpoint"), table[name], scalars[name]) for name in scalars
    }
    variables |= {
        name: (axes, values, dict(zip(("symbol", "long_name", "units"), meaning[name], strict=True)))
        for name, values in numbers.items()
    }
    variables["finished"] = (axes, np.array([place in runs for place in np.ndindex(plan.shape)]).reshape(plan.shape))
    variables["failure"] = (axes, failed.astype(str))
    coordinates: dict[str, Any] = {name: variables.pop(name) for name in ("step", "epoch") if name in variables}
    coordinates |= {name: list(values) for name, values in plan.dimensions.items()}
    return xr.Dataset(variables, coordinates, {"plan": plan_toml(plan)})


def read_sweep(path: str | Path) -> xr.Dataset:
    """Read a sweep's data set, ``sweep.nc``, into memory; raises InputError where there is none or it is damaged."""
    path = Path(path)
    found = read_netcdf(path, "data set of a sweep", "the file sweep.nc of a sweep")
    lacks = [name for name in ("finished", "failure") if name not in found] + ["plan"] * ("plan" not in found.attrs)
    if lacks:
        raise InputError(f"{path} is no data set of a sweep (no {', '.join(lacks)} in it).")
    return found


def member_trajectory(sweep: xr.Dataset, **coordinates: Any) -> xr.Dataset:
    """The trajectory of one member, as its own folder holds it (but for arrays, such as the noise spectrum).

    Parameters
    ----------
    sweep : xarray.Dataset
        Of `sweep_dataset`.
    **coordinates
        A value for each axis of the sweep with more than one, such as ``noise_fraction=0.5, seed=0``.

    Returns
    -------
    xarray.Dataset
        With dimension "step".

    Raises
    ------
    UsageError
        If the coordinates do not single out one member, or that member did not end.
    """
    plan = read_plan(sweep.attrs["plan"])
    place = tuple(_index(sweep, name, coordinates) for name in plan.dimensions)
    if unknown := set(coordinates) - set(plan.dimensions):
        raise UsageError(
            f"{', '.join(sorted(unknown))}: no axis of this sweep; there are {', '.join(plan.dimensions)}."
        )
    one = sweep.isel(dict(zip(plan.dimensions, place, strict=True)))
    if not one["finished"]:
        raise UsageError(
            f"the member with {coordinates} did not end: {str(one['failure'].item()) or 'it was not run'}."
        )
    settings = next(member.settings for member in plan.members() if member.place == place)
    return _as_trajectory(one).assign_attrs(settings=settings_toml(settings))


def finished_trajectories(sweep: xr.Dataset) -> list[xr.Dataset]:
    """Trajectories of all members that ended, without their settings, the last axis varying fastest."""
    axes = [str(name) for name in sweep["finished"].dims]
    places = np.argwhere(sweep["finished"].to_numpy())
    return [_as_trajectory(sweep.isel(dict(zip(axes, place, strict=True)))) for place in places]


def _as_trajectory(one: xr.Dataset) -> xr.Dataset:
    """A single member of a sweep's data set with dimension "step", nothing padded."""
    measured = one.isel(checkpoint=np.flatnonzero(np.isfinite(one["step"].to_numpy())))
    kept = measured[[name for name in measured.data_vars if measured[name].dims == ("checkpoint",)]]
    kept = kept.drop_vars([name for name in kept.coords if not kept[name].dims]).swap_dims(checkpoint="step")
    kept["step"] = kept["step"].astype(np.int64)
    names = [str(name) for name in kept.data_vars]
    sizes = {name: float(one[name]) for name in SIZES if name in one and np.isfinite(one[name])}
    kept = kept.rename({name: name.removesuffix(MEASURED) for name in names if name.endswith(MEASURED)})
    return kept.assign_attrs(sizes)


def _index(sweep: xr.Dataset, name: str, coordinates: dict[str, Any]) -> int:
    values = list(sweep[name].to_numpy())
    if name not in coordinates and len(values) == 1:
        return 0
    if name not in coordinates or coordinates[name] not in values:
        raise UsageError(f"{name} = {coordinates.get(name)!r}: choose one of {', '.join(map(str, values))}.")
    return values.index(coordinates[name])
