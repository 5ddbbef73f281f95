"""Many runs from one plan, over processes of this machine or a Dask cluster; every member is a run folder."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr
from joblib import Parallel, cpu_count, delayed, parallel_config

from sgdphases import __version__
from sgdphases.estimators.errors import InputError, TrainingDiverged, UsageError
from sgdphases.sim.atomic import write_whole
from sgdphases.sim.checkpoint import Checkpoint
from sgdphases.sim.run_folder import RunFolder, first_free, start_folder
from sgdphases.sim.settings import RunSettings
from sgdphases.sim.sweep_plan import Member, SweepPlan, plan_toml, read_plan
from sgdphases.sim.training import advance, prepare
from sgdphases.sim.trajectory import last_epoch, write_trajectory

KILLED = "the process that ran it was killed; it may have run out of memory"


@dataclass(frozen=True)
class SweepFolder:
    """Where the parts of a sweep stand.

    ``sweep.toml`` (the plan), ``members/NAME/`` (a run folder each), ``failures.json`` (member -> why it failed),
    ``sweep.nc`` (all of it as one labelled data set), ``phases.json`` (those that runs differing in their seed have in
    common), ``figures/`` and ``report.html``.
    """

    path: Path

    @property
    def plan(self) -> Path:
        return self.path / "sweep.toml"

    @property
    def failures(self) -> Path:
        return self.path / "failures.json"

    @property
    def dataset(self) -> Path:
        return self.path / "sweep.nc"

    @property
    def phases(self) -> Path:
        return self.path / "phases.json"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def member(self, member: Member) -> RunFolder:
        return RunFolder(self.path / "members" / member.name)

    def read_plan(self) -> SweepPlan:
        """The plan; raises UsageError where the folder holds no sweep, InputError where its plan is damaged."""
        if not self.plan.is_file():
            raise UsageError(f"{self.path} holds no sweep: there is no {self.plan.name} in it.")
        return read_plan(self.plan.read_text(encoding="utf-8"))

    def read_failures(self) -> dict[str, str]:
        """Why members failed, by name; raises InputError where the file is damaged."""
        try:
            return dict(json.loads(self.failures.read_text(encoding="utf-8"))) if self.failures.exists() else {}
        except ValueError as error:
            raise InputError(f"{self.failures} is damaged ({error}): remove it, its members run again.") from None


@dataclass(frozen=True)
class Outcome:
    """A member that ended; ``failure`` says why it failed, or is None."""

    member: Member
    failure: str | None


def free_sweep_folder(out: Path | None, dataset: str) -> SweepFolder:
    """The folder a new sweep may use: ``out``, or the first free of ``sweeps/DATASET-001``, ``-002``, …"""
    return SweepFolder(first_free("sweeps", dataset) if out is None else Path(out))


def start_sweep(folder: SweepFolder, plan: SweepPlan) -> None:
    """Create the folder and write the plan; a folder that holds the same plan is left as it is.

    Raises
    ------
    UsageError
        If the folder holds anything else.
    InputError
        If it cannot be written.
    """
    if folder.plan.exists():
        if folder.read_plan() != read_plan(plan_toml(plan)):
            raise UsageError(
                f"{folder.path} holds another sweep: go on with `sgdphases resume {folder.path}`, or choose another "
                "folder with --out."
            )
        return
    if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
        raise UsageError(f"{folder.path} is there and not an empty folder: choose another with --out.")
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        write_whole(folder.plan, lambda part: part.write_text(plan_toml(plan), encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{folder.path} cannot be written: {error.strerror or error}; choose another with --out."
        ) from None


def run_sweep(
    folder: SweepFolder, plan: SweepPlan, *, workers: int | None = None, dask: str | None = None
) -> Iterator[Outcome]:
    """Run the members that have not ended yet, those that failed before included.

    Parameters
    ----------
    folder : SweepFolder
        Of `start_sweep`.
    plan : SweepPlan
    workers : int or None
        Processes on this machine; None takes one a core. The cores are shared out among them, so that BLAS does not
        run more threads than there are cores. One worker runs in this very process.
    dask : str or None
        Address of the scheduler of a Dask cluster that runs them instead. Its workers need this package, and the data
        where the settings say. A member whose worker dies runs again on another; here nothing is written twice.

    Yields
    ------
    Outcome
        As members end, in any order. On this machine an unfinished member goes on from its last checkpoint.

    Raises
    ------
    UsageError
        If there is no cluster at that address, or it lacks this package.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers = {workers}: give at least 1.")
    failures = folder.read_failures()
    waiting = [member for member in plan.members() if not is_finished(folder.member(member), member.settings)]
    run = partial(_over_cluster, address=dask) if dask else partial(_over_processes, workers=workers or cpu_count())
    for outcome in run(folder, waiting):
        name = outcome.member.name
        failures.pop(name, None)
        if outcome.failure is not None:
            failures[name] = outcome.failure
        text = json.dumps(failures, indent=2, ensure_ascii=False)
        write_whole(folder.failures, lambda part, text=text: part.write_text(text + "\n", encoding="utf-8"))
        yield outcome


def is_finished(folder: RunFolder, settings: RunSettings) -> bool:
    """Whether a run's trajectory reaches its last epoch; one that is damaged does not."""
    try:
        return last_epoch(folder.trajectory)[0] >= settings.epochs
    except InputError:
        return False


def _complete(folder: RunFolder, settings: RunSettings) -> str | None:
    """Train a member to its end, from its checkpoint where there is one; why it failed, or None."""
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


def _over_processes(folder: SweepFolder, waiting: Sequence[Member], workers: int) -> Iterator[Outcome]:
    if workers == 1:
        for member in waiting:
            yield Outcome(member, _complete(folder.member(member), member.settings))
        return
    crowd, alone = list(waiting), []
    while crowd or alone:
        batch = crowd or alone[:1]
        ended: set[str] = set()
        try:
            for outcome in _pool(folder, batch, workers):
                ended.add(outcome.member.name)
                yield outcome
        except BrokenProcessPool:
            pass
        left = [member for member in batch if member.name not in ended]
        if crowd:  # whatever was under way when a process died may have killed it: each of them gets a pool of its own
            suspects = [member for member in left if folder.member(member).config.exists()] or left[:1]
            alone += suspects
            crowd = [member for member in left if member not in suspects]
        else:
            alone = alone[1:]
            yield from (Outcome(member, KILLED) for member in left)


def _pool(folder: SweepFolder, members: Sequence[Member], workers: int) -> Iterator[Outcome]:
    threads = max(1, cpu_count() // workers)
    with parallel_config(backend="loky", n_jobs=max(2, workers), inner_max_num_threads=threads):
        jobs = (delayed(_outcome)(folder, member) for member in members)
        yield from Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")(jobs)


def _outcome(folder: SweepFolder, member: Member) -> Outcome:
    return Outcome(member, _complete(folder.member(member), member.settings))


def _over_cluster(folder: SweepFolder, waiting: Sequence[Member], address: str) -> Iterator[Outcome]:
    with _cluster(address) as client:
        from dask.distributed import as_completed

        futures = {client.submit(_remote, member.settings, pure=False): member for member in waiting}
        try:
            for future in as_completed(futures, loop=client.loop):
                member = futures[future]
                yield Outcome(member, _received(folder.member(member), future))
                future.release()
        finally:
            client.cancel([future for future in futures if not future.done()])


def _cluster(address: str) -> Any:
    """A client of the scheduler there, once it is known that its workers have this package."""
    try:
        from dask.distributed import Client
    except ModuleNotFoundError:
        raise UsageError("a Dask cluster needs the package dask: pip install 'sgdphases[dask]'.") from None
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {address} ({error}): start one with `dask scheduler`, or leave out --dask."
        ) from None
    workers = client.get_versions(packages=["sgdphases"])["workers"]
    unlike = [name for name, has in workers.items() if has["packages"].get("sgdphases") != __version__]
    if unlike:
        client.close()
        raise UsageError(f"Dask workers without sgdphases {__version__}: {', '.join(unlike)}; install it there.")
    return client


def _remote(settings: RunSettings) -> tuple[str | None, RunSettings | None, Checkpoint | None, xr.Dataset | None]:
    """A whole member on another machine, which sees no folder of ours: all that came of it travels back."""
    with tempfile.TemporaryDirectory(prefix="sgdphases-") as place:
        folder = RunFolder(Path(place) / "run")
        failure = _complete(folder, settings)
        if failure is not None:
            return failure, None, None, None
        return None, folder.read_settings(), folder.read_checkpoint(), folder.read_trajectory()


def _received(folder: RunFolder, future: Any) -> str | None:
    """Write what a finished member brought; why it failed, or None."""
    error = future.exception()
    if error is not None:
        return f"{type(error).__name__}: {error}"
    failure, settings, checkpoint, trajectory = future.result()
    if failure is None:
        start_folder(folder, settings)
        folder.save(checkpoint)
        write_trajectory(folder.trajectory, trajectory)
    return failure
