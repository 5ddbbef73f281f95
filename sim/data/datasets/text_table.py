"""A CSV or TSV file by hand or from a spreadsheet: every record is kept unchanged, to be written again."""

import codecs
import csv
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sgdphases.estimators.errors import DataWarning, InputError
from sgdphases.sim.storage.arrays import check_memory

SEPARATORS = (",", ";", "\t", "|")
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_REMEDY = "save it again as a table with a header line, in UTF-8"


@dataclass(frozen=True, eq=False)
class TextTable:
    """Records of a table, as text.

    Attributes
    ----------
    columns : tuple of str
        From the header, without blanks around them; a column without a name is called after its place.
    header : str
        Its line, as it stands.
    records : tuple of str
        Those of the rows, empty ones left out; a record is a line, or several where quotes enclose line breaks.
    places : tuple of int
        The row of each record, as a spreadsheet counts them: the header is row 1.
    separator, encoding : str
    """

    columns: tuple[str, ...]
    header: str
    records: tuple[str, ...]
    places: tuple[int, ...]
    separator: str
    encoding: str

    def rows(self, index: Sequence[int] | None = None) -> list[list[str]]:
        """The cells of all rows, or of some."""
        wanted = self.records if index is None else [self.records[k] for k in index]
        return list(csv.reader(io.StringIO("".join(map(_ended, wanted)), newline=""), delimiter=self.separator))

    def write(self, path: Path, index: np.ndarray, changed: dict[int, str], column: int) -> None:
        """Write some records; all but those changed stay as they stand.

        Parameters
        ----------
        path : Path
        index : ndarray of int
            Of the records to write.
        changed : dict
            Number of a record -> the new cell in ``column``.
        column : int
        """
        end = _end(self.header)
        with open(path, "w", newline="", encoding=self.encoding) as file:
            file.write(_ended(self.header))
            writer = csv.writer(file, delimiter=self.separator, lineterminator=end)
            for number in map(int, index):
                if number not in changed:
                    file.write(_ended(self.records[number], end))
                    continue
                (cells,) = self.rows([number])
                cells[column] = changed[number]
                writer.writerow(cells)


def read_text_table(path: Path) -> TextTable:
    """Read a CSV or TSV file.

    The separator is that of comma, semicolon, tab and bar which parts the header into most columns; the encoding is
    UTF-8, or that of its byte order mark, or else Windows-1252, with a warning.

    Raises
    ------
    InputError
        The file is not there, is no text, has no header, or rows of different lengths.
    """
    text, encoding = _decoded(_content(path), path)
    lines = io.StringIO(text, newline="")
    header = next(lines, "")
    while header and not header.strip():
        header = next(lines, "")
    separators = ("\t",) if path.suffix.lower() == ".tsv" else SEPARATORS
    separator = max(separators, key=lambda each: len(_cells(header, each)))
    header = _completed(header, lines, separator)
    names = [name.strip() for name in _cells(header, separator)]
    _check_header(names, path)
    columns = tuple(name or f"column {k + 1}" for k, name in enumerate(names))
    records, places = _records(lines, separator, len(columns), path)
    if not records:
        raise InputError(f"{path} holds a header and no rows; at least one sample is needed")
    return TextTable(columns, header, tuple(records), tuple(places), separator, encoding)


def _content(path: Path) -> bytes:
    if not path.exists():
        raise InputError(f"the data file {path} does not exist; give the path of a table")
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        check_memory(4 * path.stat().st_size)  # as text, and as numbers
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the file") from None
    except ValueError as error:
        raise InputError(f"{path} cannot be read ({error}); give another file, or fewer rows") from None


def _decoded(content: bytes, path: Path) -> tuple[str, str]:
    """The text of a file, and its encoding."""
    marked = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), None)
    try:
        text, encoding = content.decode(marked or "utf-8"), marked or "utf-8"
    except UnicodeDecodeError as error:
        if marked:
            raise InputError(f"{path} is damaged, or no text in {marked} ({error.reason}); {_REMEDY}") from None
        text, encoding = content.decode("cp1252", "replace"), "cp1252"
        if "\ufffd" not in text and "\0" not in text:
            warnings.warn(f"{path} is not in UTF-8, and is read as Windows-1252", DataWarning, 4)
    if "\0" in text or "\ufffd" in text:
        raise InputError(f"{path} holds bytes that are no text; {_REMEDY}")
    return text, encoding


def _check_header(names: list[str], path: Path) -> None:
    if len(names) < 2:
        what = f"one column, {names[0][:80]!r}" if names and names[0] else "no columns"
        raise InputError(f"{path} has {what}; a label and a feature are needed, with commas or semicolons between")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError(f"{path} has several columns called {twice[0]!r}; rename all but one")
    if all(_is_number(name) for name in names):
        raise InputError(f"{path} begins with a row of numbers, {', '.join(names)[:80]}; put a line with the names of "
                         "the columns before it")  # fmt: skip


def _records(lines: io.StringIO, separator: str, n_columns: int, path: Path) -> tuple[list[str], list[int]]:
    """Records that are not empty, and their rows; each must have as many cells as there are columns."""
    records: list[str] = []
    places: list[int] = []
    row = 1
    for line in lines:
        row += 1
        if '"' in line:
            line = _completed(line, lines, separator)
            if _is_open(line, separator):
                raise InputError(f"{path}: a quote is opened in row {row} and never closed; close it, or remove it")
            n_cells = len(_cells(line, separator))
        else:
            n_cells = line.count(separator) + 1
        if not line.strip(separator + ' \t\r\n"'):
            continue
        if n_cells != n_columns:
            raise InputError(
                f"{path}: row {row} has {n_cells} cells, the header {n_columns}; correct the row (text that holds "
                f"{separator!r} needs quotes around it)"
            )
        records.append(line)
        places.append(row)
    return records, places


def _completed(line: str, lines: io.StringIO, separator: str) -> str:
    """A record that begins in this line, with the lines that its quotes enclose."""
    if '"' not in line:
        return line
    used = [line]

    def taken() -> Iterator[str]:
        yield line
        for more in lines:
            used.append(more)
            yield more

    try:
        next(csv.reader(taken(), delimiter=separator), None)
    except csv.Error:
        return line
    return "".join(used)


def _is_open(record: str, separator: str) -> bool:
    """Whether a record ends, with the file, inside quotes."""
    try:
        next(csv.reader(io.StringIO(record, newline=""), delimiter=separator, strict=True), None)
    except csv.Error as error:
        return "unexpected end" in str(error)
    return False


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(line, newline=""), delimiter=separator), [])
    except csv.Error:
        return []


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _end(line: str) -> str:
    return line[len(line.rstrip("\r\n")) :] or "\n"


def _ended(line: str, end: str = "\n") -> str:
    return line if line.endswith(("\n", "\r")) else line + end
