"""Many runs from one plan, over processes of this machine or a Dask cluster, and one file for what they measure."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import xarray as xr
from joblib import Parallel, cpu_count, delayed, parallel_config

from sgdphases.estimators.errors import UsageError
from sgdphases.sim.sweep.cluster import over_cluster
from sgdphases.sim.sweep.dataset import sweep_dataset
from sgdphases.sim.sweep.folder import SweepFolder, claim_sweep, start_sweep
from sgdphases.sim.sweep.member import TRAINING, Job, Outcome, made_folder
from sgdphases.sim.sweep.plan import Member, SweepPlan, plan_sweep
from sgdphases.sim.sweep.results import Ended, ResultsWriter

KILLED = "the process that ran it was killed; it may have run out of memory"


def sweep(
    dataset: str,
    axes: Mapping[str, Sequence[Any]],
    *,
    out: str | Path | None = None,
    workers: int | None = None,
    keep_members: bool = False,
    **settings: Any,
) -> xr.Dataset:
    """Run every combination of settings, and gather the runs: what ``sgdphases sweep`` does, without figures.

    Repeated with the same arguments and folder it goes on where it was interrupted.

    Parameters
    ----------
    dataset : str
        As for `run`.
    axes : mapping of str to sequence
        Settings, or ``dataset_options.NAME``, with their values; the last varies fastest.
    out : str, Path or None
        Folder; None takes the first free of ``sweeps/DATASET-001``, …
    workers : int or None
        Processes; None takes one a core.
    keep_members : bool
        Give every member a run folder. Those that take seconds have none otherwise; `sgdphases report` makes it.
    **settings
        Of all runs, as in `RunSettings`.

    Returns
    -------
    xarray.Dataset
        Every run's trajectory over the axes; its attribute ``folder`` says where the runs are.

    Raises
    ------
    UsageError, InputError
        As `plan_sweep` and `claim_sweep` do.
    """
    plan = plan_sweep({"dataset": dataset, **settings}, axes)
    with claim_sweep(None if out is None else Path(out), dataset, plan) as claimed:
        folder = SweepFolder(claimed.path)
        start_sweep(folder, plan)
        for _ in run_sweep(folder, plan, workers=workers, keep_members=keep_members):
            pass
        return sweep_dataset(folder, plan).assign_attrs(folder=str(folder.path))


def run_sweep(
    folder: SweepFolder,
    plan: SweepPlan,
    *,
    workers: int | None = None,
    dask: str | None = None,
    job: Job = TRAINING,
    keep_members: bool = False,
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
    job : Job
        What is done with each member; a cluster knows `TRAINING` only.
    keep_members : bool
        Give every member a run folder, those included that ended before.

    Yields
    ------
    Outcome
        As members end, in any order, what they measured being on disk by then. On this machine an unfinished member
        that has a folder goes on from its last checkpoint.

    Raises
    ------
    UsageError
        If there is no cluster at that address, or it lacks this package, or is given another job.
    InputError
        If what they measured cannot be written, or the file for it is damaged.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers = {workers}: give at least 1.")
    if dask and job is not TRAINING:
        raise UsageError(f"dask = {dask!r}: a cluster only trains; run this on processes of this machine.")
    failures = folder.read_failures()
    members = plan.members()
    waiting = [member for member in members if not job.is_finished(folder.member(member), member.settings)]
    if keep_members:
        for member in members:
            made_folder(folder.member(member))
    if dask:
        ended = over_cluster(waiting, dask)
    else:
        ended = _over_processes(folder, waiting, workers or cpu_count(), job)
    with ResultsWriter(folder.results) as results:
        for outcome in ended:
            name = outcome.member.name
            if outcome.ended is not None:
                results.append(name, outcome.ended)
            if failures.get(name) != outcome.failure:
                failures.pop(name, None)
                if outcome.failure is not None:
                    failures[name] = outcome.failure
                folder.write_failures(failures)
            if keep_members:
                made_folder(folder.member(outcome.member))
            yield Outcome(outcome.member, outcome.failure)


def _over_processes(folder: SweepFolder, waiting: Sequence[Member], workers: int, job: Job) -> Iterator[Outcome]:
    if workers == 1:
        for member in waiting:
            yield _outcome(folder, member, job)
        return
    crowd: list[Member] = list(waiting)
    alone: list[Member] = []
    while crowd or alone:
        batch = crowd or alone[:1]
        ended: set[str] = set()
        begun: list[Member] = []
        try:
            for outcome in _pool(folder, batch, workers, job, begun):
                ended.add(outcome.member.name)
                yield outcome
        except BrokenProcessPool:
            pass
        left = [member for member in batch if member.name not in ended]
        if crowd:  # whatever was under way when a process died may have killed it: each of them gets a pool of its own
            suspects = [member for member in left if member in begun] or left[:1]
            alone += suspects
            crowd = [member for member in left if member not in suspects]
        else:
            alone = alone[1:]
            yield from (Outcome(member, KILLED) for member in left)


def _pool(
    folder: SweepFolder, members: Sequence[Member], workers: int, job: Job, begun: list[Member]
) -> Iterator[Outcome]:
    """Members over processes, each listed in ``begun`` when it is handed to one."""

    def handed_over() -> Iterator[Any]:
        for member in members:
            begun.append(member)
            yield delayed(_outcome)(folder, member, job)

    threads = max(1, cpu_count() // workers)
    with parallel_config(backend="loky", n_jobs=max(2, workers), inner_max_num_threads=threads):
        yield from Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")(handed_over())


def _outcome(folder: SweepFolder, member: Member, job: Job) -> Outcome:
    found = job.complete(folder.member(member), member.settings)
    return Outcome(member, None, found) if isinstance(found, Ended) else Outcome(member, found)
