"""A run on disk: a folder with fixed names, every file whole at any moment."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from sgdphases.estimators.errors import UsageError
from sgdphases.sim.run.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sgdphases.sim.run.settings import RunSettings, check_fixed, make_settings, read_settings, settings_toml
from sgdphases.sim.run.trajectory import read_trajectory, trajectory_dataset
from sgdphases.sim.storage.atomic import write_whole
from sgdphases.sim.storage.claims import Claim, claim_new
from sgdphases.sim.storage.folders import ReportFolder, created, refuse_full
from sgdphases.sim.storage.netcdf import write_netcdf

STUDY = (
    "{} holds a study of cleansing, not of runs: continue with the command that began it, such as "
    "`sgdphases reproduce fig6`."
)


@dataclass(frozen=True)
class RunFolder(ReportFolder):
    """Where the parts of a run stand.

    ``config.toml`` (settings, versions), ``checkpoint.npz`` (weights, step, rows measured so far),
    ``trajectory.nc`` (the same rows, labelled), ``phases.json``, ``figures/`` and ``report.html``.
    """

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.npz"

    @property
    def trajectory(self) -> Path:
        return self.path / "trajectory.nc"

    @property
    def phases(self) -> Path:
        return self.path / "phases.json"

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint."""
        save_checkpoint(self.checkpoint, checkpoint)

    def publish(self, rows: dict[str, np.ndarray], steps_per_epoch: int, sizes: dict[str, float]) -> None:
        """Bring ``trajectory.nc`` up to date; ``sizes`` become attributes of it."""
        settings = self.config.read_text(encoding="utf-8")
        trajectory = trajectory_dataset(rows, steps_per_epoch, settings)
        write_netcdf(self.trajectory, trajectory.assign_attrs(sizes))

    def read_settings(self) -> RunSettings:
        """The run's settings.

        Raises
        ------
        UsageError
            If the folder holds no run.
        """
        if not self.config.is_file():
            raise UsageError(f"{self.path} holds no run: there is no {self.config.name} in it.")
        return make_settings({"standardize": "never", **read_settings(self.config)})  # as before there was a choice

    def read_checkpoint(self) -> Checkpoint:
        """The newest checkpoint; raises InputError where there is none or it is damaged."""
        return load_checkpoint(self.checkpoint)

    def check_trajectory(self, trajectory: xr.Dataset) -> None:
        """Raise a UsageError where ``config.toml`` is no more what a trajectory of this run was measured with."""
        before = tomllib.loads(trajectory.attrs.get("settings", ""))
        again = f"start a new run with `sgdphases run --config {self.config}`"
        check_fixed(json.dumps(before), self.read_settings(), self.config, again)

    def read_trajectory(self) -> xr.Dataset:
        """The trajectory; raises InputError where there is none or it is damaged."""
        return read_trajectory(self.trajectory)


def refuse_run(path: Path) -> None:
    """Raise a UsageError if a new run must not use this folder: it holds a run, or anything else."""
    if RunFolder(path).config.exists():
        raise UsageError(
            f"{path} already holds a run: continue with `sgdphases resume {path}`, or choose another folder with --out."
        )
    refuse_full(path)


def refuse_other_work(path: Path) -> None:
    """Raise a UsageError where a folder has a run's settings, but holds a cleansing or a member of a study of some."""
    if (path / "options.json").is_file():
        raise UsageError(
            f"{path} holds a cleansing: continue with the command that began it, `sgdphases cleanse … --out {path}`."
        )
    if (path / "cleansing.nc").is_file():
        raise UsageError(STUDY.format(path))


def claim_run(out: Path | None, dataset: str) -> Claim:
    """Claim the folder of a new run; None takes the first free of ``runs/DATASET-001``, ``-002``, …

    Raises
    ------
    UsageError
        If the folder holds anything, or another process is at work in it.
    InputError
        If it cannot be created.
    """
    return claim_new(out, "runs", dataset, refuse_run)


def start_folder(folder: RunFolder, settings: RunSettings) -> None:
    """Create the folder and write the settings into it.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    with created(folder.path):
        write_whole(folder.config, lambda part: part.write_text(settings_toml(settings), encoding="utf-8"))
