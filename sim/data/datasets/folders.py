"""Folders of data sets that are already on disk: the one named, and what one holds."""

from pathlib import Path

from sgdphases.estimators.errors import UsageError

FOLDER_FILES = {"mnist": "train-images*", "cifar10": "data_batch_1*"}
"""Data set -> the file, one of several, that marks its folder; it may also lie one folder further down."""


def check_folder(data_dir: str | Path | None, dataset: str, otherwise: str = "") -> Path:
    """`data_dir` as a Path, or a UsageError when it is missing or no folder."""
    if data_dir is None:
        here = f"; the folder {dataset} that is here is called ./{dataset}" if Path(dataset).is_dir() else ""
        raise UsageError(
            f"data set {dataset} needs the folder that holds its files: give it with --data-dir (data_dir){otherwise}"
            f"{here}"
        )
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(
            f"the data folder {folder} {what}; give with --data-dir the folder that holds the files of {dataset}"
        )
    return folder


def data_set_in(folder: Path) -> str | None:
    """The data set whose files a folder holds, "mnist" or "cifar10"; None where it holds those of neither.

    Raises
    ------
    UsageError
        If it holds those of both.
    """
    found = [name for name in FOLDER_FILES if holds(folder, name)]
    if len(found) > 1:
        kinds = " and ".join(f"{name} ({files})" for name, files in FOLDER_FILES.items())
        raise UsageError(f"{folder} holds files of both {kinds}: give a folder with those of one.")
    return found[0] if found else None


def holds(folder: Path, name: str) -> bool:
    """Whether a data set's files lie in a folder or one further down."""
    files = FOLDER_FILES[name]
    return any(folder.glob(files)) or any(folder.glob(f"*/{files}"))
