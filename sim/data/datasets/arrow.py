"""Tables of Apache Arrow: Parquet files, and the columns of Hugging Face data sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sgdphases.estimators.errors import InputError
from sgdphases.sim.data.datasets.checks import needs
from sgdphases.sim.data.datasets.columns import (
    Column,
    check_labels_given,
    chosen_columns,
    features,
    shortened,
    text_labels,
)
from sgdphases.sim.data.datasets.own import OwnArrays
from sgdphases.sim.storage.arrays import check_memory


@dataclass(frozen=True, eq=False)
class ParquetRows:
    """The rows of a Parquet file: the source of `OwnArrays`."""

    table: Any
    label_column: str
    labels: np.ndarray

    place = "row"
    ending = ".parquet"

    @property
    def places(self) -> Sequence[int]:
        return range(self.table.num_rows)

    def listed(self) -> "ParquetRows":
        return self

    def picture(self, sample: int, side: int) -> None:
        return None

    def row(self, sample: int) -> list[tuple[str, str]]:
        return shown_row(self.table, sample, (self.label_column,))

    def write(self, out: Path, index: np.ndarray, labels: np.ndarray) -> None:
        """These rows with the types they have; of those whose label has changed, the label is new."""
        import pyarrow.parquet

        pyarrow.parquet.write_table(relabelled(self.table, self.label_column, self.labels, index, labels), out)


def read_parquet(path: Path, label_column: str | None, drop_columns: str | Sequence[str] | None) -> OwnArrays:
    """Samples and labels of a Parquet file; raises as `sgdphases.sim.data.datasets.tables.load_table` does."""
    table = _table(path)
    label, names = chosen_columns(unlike_names(table, path), path, label_column, drop_columns)
    places = range(table.num_rows)
    labels = arrow_labels(table, label, path)
    x = features(names, lambda name: arrow_column(table[name]), path, places)
    source = ParquetRows(table, label, labels)
    return OwnArrays(x, labels, names={"x": "the features", "y": f"the column {label!r}"}, source=source)


def unlike_names(table: Any, path: Path) -> list[str]:
    """The names of all columns; InputError where two have one name, or there are no rows."""
    names = list(map(str, table.column_names))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path} has several columns called {twice[0]!r}; rename all but one")
    if not table.num_rows:
        raise InputError(f"{path} holds no rows; at least one sample is needed")
    return names


def arrow_labels(table: Any, name: str, path: Path) -> np.ndarray:
    """Labels of a column: text, whole numbers or truth values, or fractions for a regression."""
    import pyarrow

    column = _plain(table[name])
    check_labels_given(column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False), name, path, range(len(column)))
    kind = column.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_string_view(kind):
        return text_labels(column.to_pylist(), name, path)
    if pyarrow.types.is_integer(kind) or pyarrow.types.is_boolean(kind) or pyarrow.types.is_floating(kind):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    raise InputError(f"{path}: {name!r} holds {kind}; labels must be text or whole numbers")


def arrow_column(chunked: Any) -> Column:
    """A column as numbers: of numbers, of truth values, or of lists of one length."""
    import pyarrow

    column = _plain(chunked)
    missing = column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    values = _numbers(column, missing)
    if values is not None:
        return Column(values, missing)
    kind = column.type
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return Column(None, missing, f"lists that differ in length, or {kind}")
    example = next((str(value)[:40] for value in column.slice(0, 1000).drop_null()[:1].to_pylist()), "")
    is_text = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
    return Column(None, missing, f"text such as {example!r}" if is_text else f"{kind} such as {example!r}")


def relabelled(table: Any, name: str, before: np.ndarray, index: np.ndarray, labels: np.ndarray) -> Any:
    """Rows of an Arrow table, in which the label is new where it has changed; schema and types stay."""
    import pyarrow

    chosen = table.take(pyarrow.array(index))
    if (labels == before[index]).all():
        return chosen
    place = table.column_names.index(name)
    field = table.schema.field(place)
    kind = field.type.value_type if pyarrow.types.is_dictionary(field.type) else field.type
    column = pyarrow.array(labels.tolist(), type=kind)
    return chosen.set_column(place, field, column if kind is field.type else column.cast(field.type))


def shown_row(table: Any, sample: int, without: Sequence[str]) -> list[tuple[str, str]]:
    """A row as names and texts, long cells shortened."""
    names = [name for name in table.column_names if name not in without]
    return [(name, shortened(str(table[name][sample].as_py()))) for name in names]


def _table(path: Path) -> Any:
    """A Parquet file in memory, all of it checked."""
    with needs("pyarrow", "parquet", f"{path} is a Parquet file"):
        import pyarrow.parquet
    if not path.exists():
        raise InputError(f"the data file {path} does not exist; give the path of a table")
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            check_memory(8 * file.metadata.num_rows * max(file.metadata.num_columns, 1))
            table = file.read()
        table.validate(full=True)
    except MemoryError:
        raise InputError(f"{path} does not fit into memory; take fewer rows") from None
    except Exception as error:  # of whatever kind a damaged file makes Arrow raise
        raise InputError(f"{path} is no usable Parquet file ({error}); write it again") from None
    return table


def _plain(chunked: Any) -> Any:
    """A column as one array, categories replaced by what they stand for, extension types by what they store."""
    import pyarrow

    column = chunked.combine_chunks()
    if isinstance(column, pyarrow.ChunkedArray):
        column = column.chunk(0)
    if isinstance(column.type, pyarrow.BaseExtensionType):
        column = column.storage
    return column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column


def _numbers(column: Any, missing: np.ndarray) -> np.ndarray | None:
    """Numbers of shape (N,), or (N, ...) of lists of lists of one length; None for anything else."""
    import pyarrow

    kind = column.type
    if pyarrow.types.is_boolean(kind):
        return np.asarray(column.cast(pyarrow.uint8()).fill_null(0).to_numpy(zero_copy_only=False)).astype(np.int64)
    if pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind):
        return np.asarray(column.fill_null(0).to_numpy(zero_copy_only=False))
    if pyarrow.types.is_decimal(kind):
        return np.asarray(column.cast(pyarrow.float64()).fill_null(0).to_numpy(zero_copy_only=False))
    if pyarrow.types.is_null(kind):
        return np.zeros(len(column))
    is_list = pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind)
    if not is_list or missing.all() or not len(column):
        return None
    there = column.filter(pyarrow.array(~missing))
    lengths = np.asarray(there.value_lengths().to_numpy(zero_copy_only=False))
    flat = there.flatten()
    if (lengths != lengths[0]).any() or not lengths[0]:
        return None
    inner_missing = flat.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    inner = _numbers(flat, inner_missing)
    if inner is None:
        return None
    if inner_missing.any():
        inner = inner.astype(np.float64)
        inner[inner_missing] = np.nan
    found = np.zeros((len(missing), lengths[0], *inner.shape[1:]), inner.dtype)
    found[~missing] = inner.reshape(len(there), lengths[0], *inner.shape[1:])
    return found
