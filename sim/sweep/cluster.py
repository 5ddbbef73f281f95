"""Members of a sweep over the workers of a Dask cluster, which need share no disk with this machine."""

import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xarray as xr

from sgdphases.estimators.errors import UsageError
from sgdphases.sim.run.checkpoint import Checkpoint
from sgdphases.sim.run.folder import RunFolder, start_folder
from sgdphases.sim.run.settings import RunSettings
from sgdphases.sim.storage.netcdf import write_netcdf
from sgdphases.sim.sweep.folder import SweepFolder
from sgdphases.sim.sweep.member import Outcome, complete_member
from sgdphases.sim.sweep.plan import Member


def over_cluster(folder: SweepFolder, waiting: Sequence[Member], address: str) -> Iterator[Outcome]:
    """Run members on the workers of a Dask cluster, and write here what comes back, each once."""
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
    own = version("sgdphases")
    found: Any = client.get_versions(packages=["sgdphases"])
    unlike = [name for name, has in found["workers"].items() if has["packages"].get("sgdphases") != own]
    if unlike:
        client.close()
        raise UsageError(f"Dask workers without sgdphases {own}: {', '.join(unlike)}; install it there.")
    return client


def _remote(settings: RunSettings) -> tuple[str | None, RunSettings | None, Checkpoint | None, xr.Dataset | None]:
    """A whole member on another machine, which sees no folder of ours: all that came of it travels back."""
    with tempfile.TemporaryDirectory(prefix="sgdphases-") as place:
        folder = RunFolder(Path(place) / "run")
        failure = complete_member(folder, settings)
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
        write_netcdf(folder.trajectory, trajectory)
    return failure
