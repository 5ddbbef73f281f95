"""In which form the user's own data are stored: known from the name of a file, or from what a folder holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgdphases.estimators.errors import InputError

if TYPE_CHECKING:  # the command line asks for a form before it loads numpy
    from sgdphases.sim.data.datasets.own import OwnArrays

BUILT_IN = ("gaussian-mixture", "teacher-student", "digits", "mnist", "cifar10")
FORMS = ("npz", "table", "images", "hugging-face")
"""Names of the data sets that are the user's own; a path may stand in their place."""
ENDINGS = {".npz": "npz", ".csv": "table", ".tsv": "table", ".parquet": "table"}
KINDS = "a .npz, .csv, .tsv or .parquet file, a folder of images, or a Hugging Face data set saved to disk"
_SAVED = ("dataset_info.json", "dataset_dict.json")  # by Hugging Face's library


def is_path(name: str) -> bool:
    """Whether a data set's name is the path of the user's own data, there or not."""
    if name in BUILT_IN or name in FORMS:
        return False
    path = Path(name)
    return path.suffix.lower() in ENDINGS or len(path.parts) > 1 or path.expanduser().is_dir()


def is_own(name: str) -> bool:
    """Whether a data set's name, or path, is that of the user's own data."""
    return name in FORMS or is_path(name)


def own_form(path: Path) -> str:
    """The form of data at a path, one of `FORMS`.

    Raises
    ------
    InputError
        If there is nothing, or a file of a kind that is not known.
    """
    if path.is_dir():
        return "hugging-face" if any((path / name).is_file() for name in _SAVED) else "images"
    form = ENDINGS.get(path.suffix.lower())
    if form is None:
        what = "is no file of a kind that is known" if path.exists() else "does not exist"
        raise InputError(f"the data {path} {what}; give {KINDS}")
    return "images" if form == "table" and _lists_images(path) else form


def read_own(path: Path, form: str, options: Mapping[str, Any]) -> "OwnArrays":
    """The user's own data as they stand there, by what reads their form; `options` are those of that reader."""
    from sgdphases.sim.data.datasets.hugging_face import read_hugging_face
    from sgdphases.sim.data.datasets.image_files import read_images
    from sgdphases.sim.data.datasets.npz import read_npz_file
    from sgdphases.sim.data.datasets.tables import read_table

    readers = {"npz": read_npz_file, "table": read_table, "images": read_images, "hugging-face": read_hugging_face}
    return readers[form](path, **options)  # type: ignore[operator]


def _lists_images(path: Path) -> bool:
    """Whether the first line of a file is that of a list of images."""
    from sgdphases.sim.data.datasets.image_files import LIST_COLUMNS

    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            first = file.readline(200).decode("utf-8-sig", "replace")
    except OSError:
        return False
    return tuple(first.strip().split(",")) in LIST_COLUMNS
