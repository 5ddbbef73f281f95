"""Members of a sweep over the workers of a Dask cluster, which need share no disk with this machine."""

import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sgdphases.estimators.errors import UsageError
from sgdphases.sim.run.folder import RunFolder
from sgdphases.sim.run.settings import RunSettings
from sgdphases.sim.sweep.member import Outcome, complete_member, from_folder
from sgdphases.sim.sweep.plan import Member
from sgdphases.sim.sweep.results import Ended


def over_cluster(waiting: Sequence[Member], address: str) -> Iterator[Outcome]:
    """Run members on the workers of a Dask cluster; what they measured comes back."""
    with _cluster(address) as client:
        from dask.distributed import as_completed

        futures = {client.submit(_remote, member.settings, pure=False): member for member in waiting}
        try:
            for future in as_completed(futures, loop=client.loop):
                yield _received(futures[future], future)
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


def _remote(settings: RunSettings) -> str | Ended:
    """A whole member on another machine, which sees no folder of ours: all that came of it, or why it failed."""
    with tempfile.TemporaryDirectory(prefix="sgdphases-") as place:
        folder = RunFolder(Path(place) / "members" / "run")
        found = complete_member(folder, settings)
        return from_folder(folder) if found is None else found


def _received(member: Member, future: Any) -> Outcome:
    error = future.exception()
    if error is not None:
        return Outcome(member, f"{type(error).__name__}: {error}")
    found = future.result()
    return Outcome(member, None, found) if isinstance(found, Ended) else Outcome(member, found)
