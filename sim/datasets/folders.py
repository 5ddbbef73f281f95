"""Find the folder of a data set that is already on disk."""

from pathlib import Path

from sgdphases.estimators.errors import UsageError


def check_folder(data_dir: str | Path | None, dataset: str, otherwise: str = "") -> Path:
    """`data_dir` as a Path, or a UsageError when it is missing or no folder."""
    if data_dir is None:
        raise UsageError(
            f"data set {dataset} needs the folder that holds its files: give it with --data-dir (data_dir){otherwise}"
        )
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(
            f"the data folder {folder} {what}; give with --data-dir the folder that holds the files of {dataset}"
        )
    return folder
