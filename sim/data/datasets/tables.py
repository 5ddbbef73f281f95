"""The user's own tables: CSV and TSV files through pandas, Parquet files through Apache Arrow."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sgdphases.estimators.errors import InputError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.columns import (
    Column,
    check_labels_given,
    chosen_columns,
    features,
    shortened,
    text_labels,
)
from sgdphases.sim.data.datasets.own import OwnArrays, own_dataset
from sgdphases.sim.data.datasets.text_table import TextTable, read_text_table

if TYPE_CHECKING:
    import pandas

ENDINGS = (".csv", ".tsv", ".parquet")
_WHOLE = re.compile(r"[+-]?\d{1,18}")
_MISSING = ["", " ", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "NULL", "null", "None", "?"]


@dataclass(frozen=True, eq=False)
class CsvRows:
    """The rows of a CSV or TSV file and their labels: the source of `OwnArrays`."""

    table: TextTable
    label_column: str
    labels: np.ndarray
    ending: str

    place = "row"

    @property
    def places(self) -> Sequence[int]:
        return self.table.places

    def listed(self) -> "CsvRows":
        return self

    def picture(self, sample: int, side: int) -> None:
        return None

    def row(self, sample: int) -> list[tuple[str, str]]:
        (cells,) = self.table.rows([sample])
        pairs = zip(self.table.columns, cells, strict=True)
        return [(name, shortened(cell)) for name, cell in pairs if name != self.label_column]

    def write(self, out: Path, index: np.ndarray, labels: np.ndarray) -> None:
        """The header and these rows as they stand; of those whose label has changed, that cell is new."""
        changed = {int(k): str(label) for k, label in zip(index, labels, strict=True) if label != self.labels[k]}
        self.table.write(out, index, changed, self.table.columns.index(self.label_column))


def load_table(
    path: str | Path,
    *,
    label_column: str | int | None = None,
    drop_columns: str | list[str] | None = None,
    classes: int | None = None,
    test_fraction: float | None = None,
    rng: np.random.Generator | None = None,
) -> Dataset:
    """Your own table, a CSV, TSV or Parquet file: one sample a row, one feature a column of numbers.

    Parameters
    ----------
    path : path
    label_column : str, optional
        Its name; by default the column called label or labels.
    drop_columns : str or list of str, optional
        Columns that are no features; as one text with commas between.
    classes, test_fraction, rng
        As for `sgdphases.sim.data.datasets.npz.load_npz`; labels that are whole numbers may be any.

    Returns
    -------
    Dataset
        Labels that are text or whole numbers make a classification, fractions a regression.

    Raises
    ------
    UsageError
        A column is not there, or `classes` or `test_fraction` is of no use.
    InputError
        The file is damaged, columns hold no numbers, values are missing, or pyarrow is not installed.
    """
    path = Path(path).expanduser()
    own = read_table(path, label_column, drop_columns)
    return own_dataset(own, path, classes=classes, test_fraction=test_fraction, rng=rng)


def read_table(
    path: Path, label_column: str | int | None = None, drop_columns: str | Sequence[str] | None = None
) -> OwnArrays:
    """The samples and labels of a table; raises as `load_table` does."""
    label = None if label_column is None else str(label_column)
    if path.suffix.lower() == ".parquet":
        from sgdphases.sim.data.datasets.arrow import read_parquet

        return read_parquet(path, label, drop_columns)
    table = read_text_table(path)
    label, names = chosen_columns(table.columns, path, label, drop_columns)
    frame = _numbers(table, label, path)
    given = [cell.strip() for cell in frame[table.columns.index(label)]]
    check_labels_given(np.array([not cell for cell in given]), label, path, table.places)
    labels = _labels(given, label, path)
    x = features(names, lambda name: _column(frame[table.columns.index(name)]), path, table.places)
    source = CsvRows(table, label, labels, path.suffix.lower())
    return OwnArrays(x, labels, names={"x": "the features", "y": f"the column {label!r}"}, source=source)


def _numbers(table: TextTable, label: str, path: Path) -> "pandas.DataFrame":
    """The table as pandas reads it, columns numbered, labels as text."""
    import pandas

    text = "".join(record if record.endswith(("\n", "\r")) else f"{record}\n" for record in table.records)
    place = table.columns.index(label)
    numbers = range(len(table.columns))

    def frame(decimal: str) -> "pandas.DataFrame":
        return pandas.read_csv(
            io.StringIO(text, newline=""), sep=table.separator, header=None, names=numbers, index_col=False,
            dtype={place: str}, keep_default_na=False, na_values={k: _MISSING for k in numbers if k != place},
            decimal=decimal, low_memory=False, skip_blank_lines=False,
        )  # fmt: skip

    try:
        found = frame(".")
        if table.separator == ";":  # a spreadsheet that parts by semicolons may write fractions with a comma
            found = min(found, frame(","), key=lambda each: sum(_column(each[k]).values is None for k in numbers))
    except Exception as error:  # of whatever kind a damaged file makes pandas raise
        raise InputError(f"{path} is no usable table ({error}); check it, or save it again") from None
    if len(found) != len(table.records):
        raise InputError(f"{path}: the quotes of its {len(table.records)} rows do not match; correct them")
    return found


def _column(series: "pandas.Series[Any]") -> Column:
    missing = np.asarray(series.isna(), dtype=bool)
    if series.dtype.kind in "biuf":
        return Column(series.to_numpy(), missing)
    there = series[~missing]
    if all(isinstance(value, bool) for value in there):
        return Column(np.array([value is True for value in series], dtype=float), missing)
    odd = next((value for value in there if not _is_number(value)), "numbers beyond all bounds")
    return Column(None, missing, f"text such as {str(odd)[:40]!r}")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _labels(given: list[str], name: str, path: Path) -> np.ndarray:
    """Whole numbers where all are, fractions where all are numbers, else text."""
    if all(_WHOLE.fullmatch(cell) for cell in given):
        return np.array([int(cell) for cell in given], dtype=np.int64)
    if all(_is_number(cell) for cell in given):
        return np.array([float(cell) for cell in given])
    return text_labels(given, name, path)
