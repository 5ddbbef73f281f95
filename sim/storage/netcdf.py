"""Data sets on disk, as netCDF: written whole or not at all, read into memory or refused."""

import io
from pathlib import Path

import h5netcdf
import h5py
import xarray as xr
from xarray.backends import H5netcdfBackendEntrypoint, H5NetCDFStore

from sgdphases.estimators.errors import InputError
from sgdphases.sim.storage.atomic import write_whole

MOST_VARIABLES = 10_000  # a run has some fifty, a sweep as many more
MOST_PACKED = 1_100  # bytes that compression makes one of, at the very most


def write_netcdf(path: Path, dataset: xr.Dataset) -> None:
    """Write netCDF, whole or not at all; raises InputError where it cannot be written.

    The file is made in memory first: where the disk is full, the HDF5 library would crash the process at its end.
    """
    content = io.BytesIO()
    with h5netcdf.File(content, "w") as file:
        dataset.dump_to_store(H5NetCDFStore(file))
    write_whole(path, lambda part: part.write_bytes(content.getbuffer()))


def read_netcdf(path: Path, kind: str, remedy: str) -> xr.Dataset:
    """Read a data set into memory.

    Parameters
    ----------
    path : Path
    kind : str
        What it should be, for the message where it is damaged.
    remedy : str
        What to give instead, for the message where there is none.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    try:
        _check_sizes(path)
        with xr.open_dataset(path, engine=H5netcdfBackendEntrypoint) as stored:
            return stored.load()
    except FileNotFoundError:
        raise InputError(f"{path} is not there: give {remedy}.") from None
    except Exception as error:  # a damaged file may raise anything
        raise InputError(f"{path} is no usable {kind} ({error or type(error).__name__}).") from None


def _check_sizes(path: Path) -> None:
    """Refuse by a ValueError what announces more than the file can hold, before it is gone through or allocated."""
    most = MOST_PACKED * path.stat().st_size
    with h5py.File(path, "r") as stored:
        if len(stored) > MOST_VARIABLES:
            raise ValueError(f"it announces {len(stored)} variables")
        for name in stored:
            size = getattr(stored[name], "nbytes", 0)
            if size > most:
                raise ValueError(f"{name} announces {size} bytes, the whole file holds {path.stat().st_size}")
