"""Data sets on disk, as netCDF: written whole or not at all, read into memory or refused."""

from pathlib import Path

import xarray as xr

from sgdphases.estimators.errors import InputError
from sgdphases.sim.storage.atomic import write_whole


def write_netcdf(path: Path, dataset: xr.Dataset) -> None:
    """Write netCDF, whole or not at all."""
    write_whole(path, lambda part: dataset.to_netcdf(part, engine="h5netcdf"))


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
