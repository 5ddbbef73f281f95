"""A run from Python: what `sgdphases run` and `sgdphases resume` do, without figures and page."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr

from sgdphases.sim.run.checkpoint import Checkpoint
from sgdphases.sim.run.folder import RunFolder, claim_run, refuse_other_work, refuse_run, start_folder
from sgdphases.sim.run.presets import preset as preset_settings
from sgdphases.sim.run.settings import RunSettings, make_settings
from sgdphases.sim.run.training import Experiment, advance, prepare
from sgdphases.sim.storage.claims import claim


def run(
    dataset: str | None = None, *, out: str | Path | None = None, preset: str | None = None, **settings: Any
) -> xr.Dataset:
    """Train a network, measure its order parameters on the way, and keep all of it in a folder.

    Parameters
    ----------
    dataset : str or None
        A name from ``sgdphases datasets``, or the path of your own data; None takes that of the preset.
    out : str, Path or None
        New folder; None takes the first free of ``runs/DATASET-001``, …
    preset : str or None
        Settings by name: see ``sgdphases presets``; those given win.
    **settings
        As in `RunSettings`.

    Returns
    -------
    xarray.Dataset
        The trajectory, as ``trajectory.nc`` holds it; its attribute ``folder`` says where.

    Raises
    ------
    UsageError
        For settings that make no sense, or a folder that is in use or full.
    InputError
        For data that cannot be used, or a folder that cannot be written.
    TrainingDiverged
        If loss or gradient are no longer finite; the folder keeps what was measured before.

    Examples
    --------
    >>> import sgdphases
    >>> trajectory = sgdphases.run("digits", noise_fraction=0.5, hidden=(50,), epochs=200)  # doctest: +SKIP
    >>> sgdphases.find_phases(trajectory)  # doctest: +SKIP
    """
    base = {} if preset is None else preset_settings(preset).settings
    named = {} if dataset is None else {"dataset": dataset}
    chosen = make_settings({**base, **named, **settings})
    with begun(chosen, None if out is None else Path(out)) as (experiment, folder):
        return _completed(experiment, folder, None)


def resume(folder: str | Path) -> xr.Dataset:
    """Continue an interrupted run from its last checkpoint; it ends as it would have without the interruption.

    Parameters
    ----------
    folder : str or Path
        Of `run`, or of ``sgdphases run``.

    Returns
    -------
    xarray.Dataset
        As `run` gives.

    Raises
    ------
    UsageError, InputError
        If the folder holds no run, is in use, or its settings or data are not those it was begun with.
    """
    place = RunFolder(Path(folder))
    with continued(place) as (experiment, start):
        return _completed(experiment, place, start)


@contextmanager
def begun(settings: RunSettings, out: Path | None) -> Iterator[tuple[Experiment, RunFolder]]:
    """A context with everything a new run needs in memory, and its folder, claimed, with the settings written.

    Parameters
    ----------
    settings : RunSettings
    out : Path or None
        None takes the first free of ``runs/DATASET-001``, …

    Raises
    ------
    UsageError, InputError
        As `run` does; then nothing is written.
    """
    if out is not None:
        refuse_run(out)
    experiment = prepare(settings)
    with claim_run(out, settings.dataset) as claimed:
        folder = RunFolder(claimed.path)
        start_folder(folder, experiment.settings)
        yield experiment, folder


@contextmanager
def continued(folder: RunFolder) -> Iterator[tuple[Experiment, Checkpoint | None]]:
    """A context with what an interrupted run goes on with, its folder claimed: no checkpoint if it reached none.

    Raises
    ------
    UsageError, InputError
        As `resume` does.
    """
    refuse_other_work(folder.path)
    folder.read_settings()  # refuses what is no run before anything is written there
    with claim(folder.path):
        settings = folder.read_settings()
        start = folder.read_checkpoint() if folder.checkpoint.exists() else None
        yield prepare(settings), start


def _completed(experiment: Experiment, folder: RunFolder, start: Checkpoint | None) -> xr.Dataset:
    for _ in advance(experiment, folder, start):
        pass
    return folder.read_trajectory().assign_attrs(folder=str(folder.path))
