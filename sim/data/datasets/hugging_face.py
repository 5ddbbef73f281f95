"""The user's own data in a folder that Hugging Face's `datasets` saved to disk."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from sgdphases.estimators.errors import DataWarning, InputError, UsageError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.arrow import arrow_column, arrow_labels, relabelled, shown_row, unlike_names
from sgdphases.sim.data.datasets.checks import check_count, needs, some
from sgdphases.sim.data.datasets.columns import chosen_columns, features
from sgdphases.sim.data.datasets.own import OwnArrays, own_dataset
from sgdphases.sim.data.datasets.pictures import Picture, decode, looked_at


@dataclass(frozen=True, eq=False)
class SavedDataset:
    """A data set, or several by the name of their split: the source of `OwnArrays`.

    Attributes
    ----------
    splits : dict
        By name, "train" among them; or one without a name.
    train : str
        Which of them is trained on.
    table : pyarrow.Table
        Its rows.
    label_column : str
    names : tuple of str or None
        Of the classes, where the file holds their numbers.
    labels : ndarray, shape (N,)
    image_column : str or None
    rows : ndarray of int, shape (N,)
        Rows that the samples are: all, but for damaged images that were to be skipped.
    """

    splits: dict[str, Any]
    train: str
    table: Any
    label_column: str
    names: tuple[str, ...] | None
    labels: np.ndarray
    image_column: str | None
    rows: np.ndarray

    place = "row"
    ending = ""

    @property
    def places(self) -> Sequence[int]:
        return self.rows.tolist()  # type: ignore[no-any-return]

    def listed(self) -> "SavedDataset":
        return self

    def picture(self, sample: int, side: int) -> Image.Image | None:
        if self.image_column is None:
            return None
        return looked_at(_picture(self.table[self.image_column], int(self.rows[sample])), side)

    def row(self, sample: int) -> list[tuple[str, str]]:
        without = (self.label_column, self.image_column or self.label_column)
        return shown_row(self.table, int(self.rows[sample]), without)

    def write(self, out: Path, index: np.ndarray, labels: np.ndarray) -> None:
        """A folder with these rows, features and splits as they are; of those whose label has changed, it is new."""
        import datasets

        wanted: np.ndarray = labels
        before = self.labels
        if self.names is not None:
            numbers = {name: number for number, name in enumerate(self.names)}
            wanted, before = (np.array([numbers[str(each)] for each in names]) for names in (labels, before))
        every = np.zeros(self.table.num_rows, before.dtype)
        every[self.rows] = before
        table = relabelled(self.table, self.label_column, every, self.rows[index], wanted)
        old = self.splits[self.train]
        new = datasets.Dataset(datasets.table.InMemoryTable(table), info=old.info.copy(), split=old.split)
        written = new if list(self.splits) == [""] else datasets.DatasetDict({**self.splits, self.train: new})
        with _quiet(datasets):
            written.save_to_disk(str(out))


def load_hugging_face(
    path: str | Path,
    *,
    label_column: str | int | None = None,
    drop_columns: str | list[str] | None = None,
    size: int | None = None,
    damaged: Literal["refuse", "skip"] = "refuse",
    test_fraction: float | None = None,
    rng: np.random.Generator | None = None,
) -> Dataset:
    """Your own data set of Hugging Face's library, saved with save_to_disk: a column of images, or columns of numbers.

    Parameters
    ----------
    path : path
        The folder. Of a DatasetDict, the splits train and, where there is one, test are taken.
    label_column : str, optional
        Its name; by default the column called label or labels, or the only one of class labels.
    drop_columns : str or list of str, optional
        Columns that are no features; as one text with commas between.
    size, damaged
        For images: as for `sgdphases.sim.data.datasets.image_files.load_images`.
    test_fraction, rng
        As for `sgdphases.sim.data.datasets.npz.load_npz`.

    Returns
    -------
    Dataset

    Raises
    ------
    UsageError
        A column or a split is not there, or an option is of no use.
    InputError
        The folder or an image is damaged, columns hold no numbers, values are missing, or the library is not
        installed.
    """
    path = Path(path).expanduser()
    own = read_hugging_face(path, label_column, drop_columns, size, damaged)
    return own_dataset(own, path, test_fraction=test_fraction, rng=rng)


def read_hugging_face(
    path: Path,
    label_column: str | int | None = None,
    drop_columns: str | Sequence[str] | None = None,
    size: int | None = None,
    damaged: str = "refuse",
) -> OwnArrays:
    """Samples and labels of such a folder; raises as `load_hugging_face` does."""
    if size is not None:
        check_count("size", size)
    splits, tables = _loaded(path)
    train = _training_split(splits, path)
    table, kinds = tables[train], splits[train].features
    columns = unlike_names(table, path)
    if label_column is None:
        named = [name for name, kind in kinds.items() if type(kind).__name__ == "ClassLabel"]
        label_column = named[0] if len(named) == 1 else None
    label, names = chosen_columns(columns, path, None if label_column is None else str(label_column), drop_columns)
    images = [name for name in names if type(kinds.get(name)).__name__ == "Image"]
    if images and len(names) > 1:
        others = ",".join(name for name in names if name != images[0])
        raise InputError(
            f"{path}: beside the images of {images[0]!r} there are the columns {others}; leave them out with "
            f"--drop-columns {others}"
        )
    used = [train, "test"] if "test" in splits and train != "test" else [train]
    classes = tuple(kinds[label].names) if type(kinds.get(label)).__name__ == "ClassLabel" else None
    labels = [_labels(tables[each], label, classes, path) for each in used]
    if images:
        found, rows = _images([tables[each][images[0]] for each in used], path, size, damaged)
        labels = [each[kept] for each, kept in zip(labels, rows, strict=True)]
    else:
        if size is not None:
            raise UsageError(f"size={size} has no effect on {path}, which holds no images; leave it out")
        found = [_features(tables[each], names, path) for each in used]
        rows = [np.arange(tables[each].num_rows) for each in used]
    source = SavedDataset(splits, train, table, label, classes, labels[0], images[0] if images else None, rows[0])
    own = OwnArrays(found[0], labels[0], source=source)
    called = {"x": "the images" if images else "the features", "y": f"the column {label!r}"}
    if len(used) == 1:
        return replace(own, names=called)
    return replace(own, x_test=found[1], y_test=labels[1], names=called)


def _loaded(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The data sets of a folder by split, and their rows, checked; one without splits has the name ""."""
    with needs("datasets", "huggingface", f"{path} is a Hugging Face data set"):
        import datasets
    try:
        with _quiet(datasets):
            found = datasets.load_from_disk(str(path))
        splits = {"": found} if isinstance(found, datasets.Dataset) else dict(found)
        tables = {name: each.with_format("arrow")[:] for name, each in splits.items()}
        for table in tables.values():
            table.validate(full=True)
    except Exception as error:  # of whatever kind a damaged file makes the library raise
        what = f"{path} is no usable Hugging Face data set ({error})"
        raise InputError(f"{what}; save it again with save_to_disk") from None
    return splits, tables


def _training_split(splits: dict[str, Any], path: Path) -> str:
    if len(splits) == 1:
        return next(iter(splits))
    if "train" not in splits:
        raise UsageError(
            f"{path} holds the splits {some(splits)} and none called train: save one of them by itself with "
            "dataset[NAME].save_to_disk"
        )
    others = [name for name in splits if name not in ("train", "test")]
    if others:
        warnings.warn(f"{path}: the splits {some(others)} are left alone; train and test are taken", DataWarning, 3)
    return "train"


def _features(table: Any, names: Sequence[str], path: Path) -> np.ndarray:
    return features(names, lambda name: arrow_column(_of(table, name, path)), path, range(table.num_rows))


def _of(table: Any, name: str, path: Path) -> Any:
    if name not in table.column_names:
        raise InputError(f"{path}: the split test has no column {name!r}; give both splits the same columns")
    return table[name]


def _labels(table: Any, label: str, names: tuple[str, ...] | None, path: Path) -> np.ndarray:
    _of(table, label, path)
    labels = arrow_labels(table, label, path)
    if names is None:
        return labels
    outside = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(outside):
        raise InputError(
            f"{path}: {len(outside)} label(s) in {label!r} are none of its {len(names)} classes, the first in row "
            f"{outside[0]} ({labels[outside[0]]}); label them, or remove these rows"
        )
    return np.array(names, dtype=str)[labels]


def _images(
    columns: list[Any], path: Path, size: int | None, damaged: str
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pixels of the images of each split, all of one size, and the rows they are."""
    pictures = [_picture(column, row) for column in columns for row in range(len(column))]
    found = decode(pictures, str(path), size, damaged == "skip")
    found.warn(str(path), size)
    first = np.cumsum([0, *map(len, columns)])
    spans = [slice(*ends) for ends in pairwise(np.searchsorted(found.sound, first))]
    rows = [found.sound[span] - begin for span, begin in zip(spans, first[:-1], strict=True)]
    return [found.pixels[span] for span in spans], rows


def _picture(column: Any, row: int) -> Picture:
    """An image of a column, its bytes or the file it names; a damaged one is noticed when it is opened."""
    cell = column[row].as_py() or {}
    content, file = cell.get("bytes"), cell.get("path")
    return Picture(content if content is not None else Path(file or f"no image in row {row}"), f"row {row}")


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """No bars of progress."""
    were_on = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_on:
            datasets.enable_progress_bars()
