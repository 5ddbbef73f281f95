"""The user's own images: a folder with a sub-folder for each class, or a list of files with their labels."""

import csv
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from sgdphases.estimators.errors import DataWarning, InputError, UsageError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.checks import check_count, some
from sgdphases.sim.data.datasets.folders import FOLDER_FILES, holds
from sgdphases.sim.data.datasets.own import OwnArrays, own_dataset
from sgdphases.sim.data.datasets.pictures import Picture, decode, looked_at
from sgdphases.sim.data.datasets.text_table import read_text_table

ENDINGS = (".png", ".jpg", ".jpeg")
LIST_COLUMNS = (("file", "label"), ("file", "label", "set"))
"""Columns of a list of image files; ``set`` says train or test."""


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Where images stand, and which class each belongs to: the source of `OwnArrays`.

    Attributes
    ----------
    root : Path
        The folder, or that of the list.
    files, test_files : tuple of str
        Paths relative to ``root``, or absolute where they lie elsewhere.
    labels, test_labels : tuple of str
    is_list : bool
        Whether `write` makes a list of files, or a folder with copies of them.
    """

    root: Path
    files: tuple[str, ...]
    labels: tuple[str, ...]
    test_files: tuple[str, ...] = ()
    test_labels: tuple[str, ...] = ()
    is_list: bool = False

    place = "file"

    @property
    def places(self) -> Sequence[str]:
        return self.files

    @property
    def ending(self) -> str:
        return ".csv" if self.is_list else ""

    def listed(self) -> "ImageFiles":
        return ImageFiles(self.root, self.files, self.labels, self.test_files, self.test_labels, is_list=True)

    def picture(self, sample: int, side: int) -> Image.Image:
        return looked_at(Picture(self.root / self.files[sample], self.files[sample]), side)

    def row(self, sample: int) -> list[tuple[str, str]]:
        return []

    def write(self, out: Path, index: np.ndarray, labels: np.ndarray) -> None:
        """A list at ``out``, with absolute paths; or a folder there, with copies of the files in sub-folders."""
        chosen = [(self.files[sample], str(label), "train") for sample, label in zip(index, labels, strict=True)]
        tested = [(*each, "test") for each in zip(self.test_files, self.test_labels, strict=True)]
        if self.is_list:
            _write_list(out, [(os.path.abspath(self.root / file), *more) for file, *more in chosen + tested])
            return
        known = {*self.labels, *self.test_labels}
        for file, label, part in chosen + tested:
            assert label in known and label not in ("", ".", "..") and "/" not in label  # names of folders before
            place = (out / part if tested else out) / label
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.root / file, _free(place, Path(file).name))


def load_images(
    path: str | Path,
    *,
    size: int | None = None,
    damaged: Literal["refuse", "skip"] = "refuse",
    test_fraction: float | None = None,
    rng: np.random.Generator | None = None,
) -> Dataset:
    """Your own PNG and JPEG images: a folder with a sub-folder for each class.

    Parameters
    ----------
    path : path
        The folder: ``CLASS/…/NAME.png``, or ``train/CLASS/…`` and ``test/CLASS/…``. Or a list of files, as `cleanse`
        writes it: a CSV table with the columns ``file`` and ``label``, and ``set`` (train or test) where there is a
        test set.
    size : int, optional
        Pixels across and down to which all are resized: see `sgdphases.sim.data.datasets.pictures.decode`.
    damaged : {"refuse", "skip"}
        Whether images that cannot be read are refused, all of them named, or left out.
    test_fraction, rng
        As for `sgdphases.sim.data.datasets.npz.load_npz`.

    Returns
    -------
    Dataset
        Samples of shape (1 or 3, height, width), from 0 to 1; classes in the order of their names.

    Raises
    ------
    UsageError
        The folder holds no images in sub-folders, or `size` or `test_fraction` is of no use.
    InputError
        Images are damaged, or names are no UTF-8.
    """
    path = Path(path).expanduser()
    return own_dataset(read_images(path, size, damaged), path, test_fraction=test_fraction, rng=rng)


def read_images(path: Path, size: int | None = None, damaged: str = "refuse") -> OwnArrays:
    """Images and the names of their classes; raises as `load_images` does."""
    if size is not None:
        check_count("size", size)
    source = _files_in(path) if path.is_dir() else _files_of_list(path)
    names = [*source.files, *source.test_files]
    pictures = [Picture(source.root / name, name) for name in names]
    found = decode(pictures, str(path), size, damaged == "skip")
    found.warn(str(path), size)
    n_train = int(np.searchsorted(found.sound, len(source.files)))
    train, test = found.sound[:n_train], found.sound[n_train:] - len(source.files)
    source = ImageFiles(
        source.root,
        tuple(source.files[k] for k in train),
        tuple(source.labels[k] for k in train),
        tuple(source.test_files[k] for k in test),
        tuple(source.test_labels[k] for k in test),
        source.is_list,
    )
    has_test = len(test) > 0
    return OwnArrays(
        found.pixels[:n_train],
        np.array(source.labels, dtype=str),
        found.pixels[n_train:] if has_test else None,
        np.array(source.test_labels, dtype=str) if has_test else None,
        names={"x": "the images", "y": "the classes"},
        source=source,
    )


def is_list_of_images(columns: Sequence[str]) -> bool:
    """Whether a table with these columns lists image files."""
    return tuple(columns) in LIST_COLUMNS


def _files_in(folder: Path) -> ImageFiles:
    """The images of a folder by class, in the order of their names; what is left out is named in a warning."""
    inside = [each for each in _entries(folder) if each.is_dir()]
    parts = {each.name: each for each in inside if each.name in ("train", "test") and _holds_classes(each)}
    left_out: list[str] = []
    if "train" in parts:
        files = _by_class(parts["train"], folder, left_out)
        tested = _by_class(parts["test"], folder, left_out) if "test" in parts else []
        left_out += [each.name for each in _entries(folder) if each not in parts.values()]
    else:
        files, tested = _by_class(folder, folder, left_out), []
    classes = sorted({label for _, label in files})
    if len(classes) < 2:
        raise UsageError(_no_classes(folder, classes))
    if left_out:
        warnings.warn(
            f"{folder}: {len(left_out)} left out, which are no PNG or JPEG images in the folder of a class: "
            f"{some(map(repr, left_out))}",
            DataWarning,
            3,
        )
    names, labels = zip(*files, strict=True)
    test_names, test_labels = zip(*tested, strict=True) if tested else ((), ())
    return ImageFiles(folder, names, labels, test_names, test_labels)


def _by_class(folder: Path, root: Path, left_out: list[str]) -> list[tuple[str, str]]:
    """Path from ``root`` and class of every image in the sub-folders of a folder; all else goes to ``left_out``."""
    found: list[tuple[str, str]] = []
    for each in _entries(folder):
        is_class = each.is_dir() and not each.name.startswith(".")
        before = len(found)
        for file in _walked(each, root, left_out) if is_class else ():
            found.append((_written(file, root), _written(each, folder)))
        if len(found) == before:
            left_out.append(str(each.relative_to(root)))
    return found


def _walked(folder: Path, root: Path, left_out: list[str]) -> Iterator[Path]:
    """Images in a folder and in those inside it, in order; links to folders are not followed."""
    for each in _entries(folder):
        if each.is_dir() and not each.is_symlink() and not each.name.startswith("."):
            yield from _walked(each, root, left_out)
        elif each.suffix.lower() in ENDINGS and each.is_file() and not each.name.startswith("."):
            yield each
        else:
            left_out.append(str(each.relative_to(root)))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=lambda each: each.name)
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror or error}); check the folder") from None


def _holds_classes(folder: Path) -> bool:
    """Whether a folder called train or test is one of a set, not of a class: it holds folders and no images."""
    inside = _entries(folder)
    return any(each.is_dir() for each in inside) and not any(each.suffix.lower() in ENDINGS for each in inside)


def _written(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        odd = name.encode("utf-8", "surrogateescape")
        raise InputError(f"{odd!r} in {root} is no name in UTF-8; rename it") from None
    return name


def _no_classes(folder: Path, classes: list[str]) -> str:
    known = [name for name in FOLDER_FILES if holds(folder, name)]
    if known:
        return f"{folder} holds the files of {known[0]}: load it by that name, with this folder as data_dir."
    if classes:
        deeper = folder / classes[0]
        inside = [each for each in _entries(deeper) if each.is_dir()] if deeper.is_dir() else []
        hint = f" Did you mean {deeper}?" if len(inside) > 1 else ""
        return (
            f"all images in {folder} lie in one sub-folder, {classes[0]!r}: give a folder with a sub-folder for each "
            f"class, two at least.{hint}"
        )
    kinds = " or ".join(f"{name} ({files})" for name, files in FOLDER_FILES.items())
    return (
        f"{folder} holds no data set that is known: give a folder with a sub-folder of PNG or JPEG images for each "
        f"class, a Hugging Face data set saved to disk, the files of {kinds}, or a .npz, .csv, .tsv or .parquet file."
    )


def _files_of_list(path: Path) -> ImageFiles:
    """The files that a table with the columns of `LIST_COLUMNS` names."""
    table = read_text_table(path)
    if not is_list_of_images(table.columns):
        raise UsageError(f"{path} has the columns {some(table.columns)}: a list of images has file and label.")
    rows = table.rows()
    sets = {row[2].strip() for row in rows if len(row) > 2}
    if not sets <= {"train", "test"}:
        raise InputError(f"{path}: the column set holds {some(sorted(sets))}; it must say train or test")
    for row, place in zip(rows, table.places, strict=True):
        if not row[0] or not row[1]:
            raise InputError(f"{path}: row {place} lacks its file or its label; fill it in, or remove the row")
        if not (path.parent / row[0]).is_file():
            raise InputError(f"{path}: row {place} names {row[0]}, where no file is; correct it, or remove the row")
    train = [row for row in rows if len(row) < 3 or row[2].strip() == "train"]
    test = [row for row in rows if len(row) > 2 and row[2].strip() == "test"]
    if not train:
        raise InputError(f"{path} lists no images for training; at least two classes are needed")
    return ImageFiles(
        path.parent,
        tuple(row[0] for row in train),
        tuple(row[1] for row in train),
        tuple(row[0] for row in test),
        tuple(row[1] for row in test),
        is_list=True,
    )


def _write_list(path: Path, rows: list[tuple[str, ...]]) -> None:
    has_test = any(row[2] == "test" for row in rows)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(LIST_COLUMNS[has_test])
        writer.writerows(row if has_test else row[:2] for row in rows)


def _free(folder: Path, name: str) -> Path:
    """A name in a folder that nothing has: files of one name may come from different folders."""
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{Path(name).stem}-{number}{Path(name).suffix}"
    return path
