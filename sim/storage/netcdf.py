"""Data sets on disk, as netCDF: written whole or not at all, read into memory or refused."""

import io
from pathlib import Path

import h5netcdf
import xarray as xr
from xarray.backends import H5NetCDFStore

from sgdphases.estimators.errors import InputError
from sgdphases.sim.storage.atomic import write_whole


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
        with xr.open_dataset(path, engine="h5netcdf") as stored:
            return stored.load()
    except FileNotFoundError:
        raise InputError(f"{path} is not there: give {remedy}.") from None
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is no usable {kind} ({error}).") from None
