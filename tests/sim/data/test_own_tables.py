"""The user's own tables: what spreadsheets and pandas write is read, what is no number named, and cells stay."""

import builtins
import csv
import decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cleansed import NAMES, blobs, cleansed
from hypothesis import given
from hypothesis import strategies as st

from sgdphases.estimators.errors import DataWarning, InputError, UsageError
from sgdphases.sim.cleansing.data import labelled_data
from sgdphases.sim.data.datasets.registry import load_dataset
from sgdphases.sim.data.datasets.tables import read_table
from sgdphases.sim.data.datasets.text_table import read_text_table
from sgdphases.sim.run.settings import make_settings

ROWS = [("1", "0.5", "ant"), ("2", "-3", "bee"), ("7", "1e2", "ant")]
X = np.array([[1, 0.5], [2, -3], [7, 100]])


def written(place, text, name="mine.csv", encoding="utf-8"):
    path = place / name
    path.write_bytes(text.encode(encoding))
    return path


def lines(*rows, separator=",", end="\n"):
    return "".join(separator.join(row) + end for row in rows)


HEAD = ("size", "weight", "label")
FORMS = {
    "plain": (lines(HEAD, *ROWS), "mine.csv", "utf-8"),
    "byte order mark": (lines(HEAD, *ROWS), "mine.csv", "utf-8-sig"),
    "from Windows": (lines(HEAD, *ROWS, end="\r\n"), "mine.csv", "utf-16"),
    "old Macintosh": (lines(HEAD, *ROWS, end="\r"), "MINE.CSV", "utf-8"),
    "semicolons": (lines(HEAD, *ROWS, separator=";"), "mine.csv", "utf-8"),
    "decimal commas": (lines(HEAD, *ROWS, separator=";").replace(".", ","), "mine.csv", "utf-8"),
    "tabs": (lines(HEAD, *ROWS, separator="\t"), "mine.tsv", "utf-8"),
    "tabs in a .csv": (lines(HEAD, *ROWS, separator="\t"), "mine.csv", "utf-8"),
    "bars": (lines(HEAD, *ROWS, separator="|"), "mine.csv", "utf-8"),
    "quotes": (lines(*([f'"{cell}"' for cell in row] for row in [HEAD, *ROWS])), "mine.csv", "utf-8"),
    "blanks": (lines(HEAD, *ROWS, separator=" , "), "mine.csv", "utf-8"),
    "empty lines": ("\n" + lines(HEAD, ROWS[0]) + "\n,,\n" + lines(*ROWS[1:]) + "\n\n", "mine.csv", "utf-8"),
    "no last line break": (lines(HEAD, *ROWS)[:-1], "mine.csv", "utf-8"),
}


@pytest.mark.parametrize("form", FORMS)
def test_tables_are_read_however_they_were_written(tmp_path, form):
    own = read_table(written(tmp_path, *FORMS[form]))
    assert np.array_equal(own.x, X) and own.y.tolist() == ["ant", "bee", "ant"]
    assert list(own.source.places) == ([2, 5, 6] if form == "empty lines" else [2, 3, 4])


def test_labels_may_be_text_or_whole_numbers_and_no_text_is_taken_for_missing(tmp_path):
    cases = {
        ("7", "-2", "007"): [7, -2, 7],
        ("NA", "None", "nan"): ["NA", "None", "nan"],
        ("True", "False", "True"): ["True", "False", "True"],
        ("1", "x", "1"): ["1", "x", "1"],
        ("1.5", "2", "3"): [1.5, 2.0, 3.0],
        ('"a\nb"', '"c,d"', '"e""f"'): ["a\nb", "c,d", 'e"f'],
    }
    for labels, expected in cases.items():
        own = read_table(written(tmp_path, lines(("x", "label"), *(("1.5", label) for label in labels))))
        assert own.y.tolist() == expected
    with pytest.warns(DataWarning, match="read as Windows-1252"):
        own = read_table(written(tmp_path, "x,label\n1.5,crème\n2,thé\n", encoding="cp1252"))
    assert own.y.tolist() == ["crème", "thé"]


def test_columns_of_truth_values_and_whole_numbers_are_numbers(tmp_path):
    own = read_table(written(tmp_path, "a,b,c,label\nTrue,3,12345678901,x\nFalse,4,5,y\nTrue,9,6,y\n"))
    assert own.x.tolist() == [[1, 3, 12345678901], [0, 4, 5], [1, 9, 6]] and own.x.dtype == np.float64
    assert read_table(written(tmp_path, "a,label\n3,x\n4,y\n9,y\n")).x.dtype == np.float32


def test_ids_are_hinted_at(tmp_path):
    path = written(tmp_path, ",x,label\n" + "".join(f"{k},{k * k},a\n" for k in range(5)))
    with pytest.warns(DataWarning, match="'column 1' looks like a number of the row.*--drop-columns"):
        assert read_table(path).x.shape == (5, 2)
    assert read_table(path, drop_columns="column 1").x.shape == (5, 1)


REFUSED = {
    "x,city,note,label\n1,Bonn,a,b\n2,Rome,c,d\n": (InputError, "'city' holds text such as 'Bonn'; .*city,note"),
    "x,when,label\n1,2020-01-01,b\n": (InputError, "'when' holds text such as '2020-01-01'"),
    "x,y z,label\n1,,b\n,2,b\nNA,1,c\n": (InputError, "2 in 'x', the first in row 3; 1 in 'y z', the first in row 2"),
    "x,label\ninf,b\n1,c\n": (InputError, "missing or infinite: 1 in 'x', the first in row 2"),
    "x,label\n1,\n2,b\n": (InputError, r"1 label\(s\) are missing in 'label', the first in row 2"),
    "x,label\n1,a,b\n": (InputError, "row 2 has 3 cells, the header 2"),
    'x,label\n1,"a\n2,b\n': (InputError, "a quote is opened in row 2 and never closed"),
    "x,label\n": (InputError, "a header and no rows"),
    "": (InputError, "no columns"),
    "x\n1\n": (InputError, "one column, 'x'"),
    "x,x,label\n1,2,a\n": (InputError, "several columns called 'x'"),
    "5.1,3.5,0\n4.9,3.0,1\n": (InputError, "begins with a row of numbers, 5.1, 3.5, 0"),
    "x,y\n1,2\n": (UsageError, "which column.*--label-column NAME.*columns are x, y"),
    "label,labels\n1,2\n": (UsageError, "which column"),
    "x,label\n1,\0\n": (InputError, "bytes that are no text"),
    "x,label\n1," + "long " * 300 + "\n": (InputError, "a text of 1499 characters.*which is no label"),
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_number_or_missing_is_refused_by_name(tmp_path, text):
    error, named = REFUSED[text]
    with pytest.raises(error, match=named):
        load_dataset(str(written(tmp_path, text)), rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"label_column": "labl"}, "no column 'labl'.*did you mean 'label'"),
        ({"drop_columns": "size,weigth"}, "drop_columns: .* no column 'weigth'.*did you mean 'weight'"),
        ({"drop_columns": ["size", "weight"]}, "no column beside the labels"),
        ({"label_column": "size", "drop_columns": "size"}, "is to hold the labels and to be left out"),
        ({"size": 3}, "no option 'size'"),
    ],
)
def test_options_that_name_no_column_are_refused(tmp_path, options, named):
    path = written(tmp_path, lines(HEAD, *ROWS))
    with pytest.raises(UsageError, match=named):
        load_dataset(str(path), options=options, rng=np.random.default_rng(0))


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@given(st.lists(st.tuples(cells, st.integers(-9, 9), st.sampled_from(["a", "b c", 'd"', "é"])), min_size=1, max_size=8))
def test_cells_stay_as_they_are_and_only_the_label_changes(tmp_path_factory, rows):
    place = tmp_path_factory.mktemp("cells")
    with open(place / "mine.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("note", "x", "label"), *rows])
    own = read_table(place / "mine.csv", drop_columns="note")
    labels = own.y.copy()
    own.source.write(place / "same.csv", np.arange(len(rows)), labels)
    assert (place / "same.csv").read_bytes() == (place / "mine.csv").read_bytes()
    labels[0] = "a" if labels[0] != "a" else "é"
    own.source.write(place / "new.csv", np.arange(len(rows))[::-1], labels[::-1])
    with open(place / "new.csv", newline="", encoding="utf-8") as file:
        found = list(csv.reader(file))
    first = [rows[0][0], str(rows[0][1]), str(labels[0])]
    assert found[1:] == [[note, str(x), label] for note, x, label in rows[:0:-1]] + [first]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_cleaned_table_is_the_table_without_some_rows(tmp_path, encoding):
    x, y = blobs()
    rows = [
        f'{k},"note {k}, 0{k}";{a};{b};{c};{name}\r\n'
        for k, ((a, b, c), name) in enumerate(zip(x, NAMES[y], strict=True))
    ]
    path = written(tmp_path, "i,note;a;b;c;kind\r\n" + "".join(rows), encoding=encoding)
    options = {"label_column": "kind", "drop_columns": "i,note"}
    done = cleansed(path, tmp_path / "out", options)
    kept = np.flatnonzero(done.found.keep)
    text = "i,note;a;b;c;kind\r\n" + "".join(rows[k] for k in kept)
    assert done.cleaned.name == "cleaned.csv" and done.cleaned.read_bytes() == text.encode(encoding)
    with open(done.folder.labels, newline="", encoding="utf-8") as file:
        assert [int(row["row"]) for row in csv.DictReader(file)] == list(range(2, 62))
    again = labelled_data(make_settings({"dataset": str(done.cleaned), "dataset_options": options}))
    assert np.array_equal(again.given, x[kept])


def test_parquet_keeps_every_type(tmp_path):
    x, y = blobs()
    table = pa.table(
        {
            "a": pa.array(x[:, 0], pa.float32()),
            "when": pa.array([0] * 60, pa.timestamp("us")),
            "b": pa.array([decimal.Decimal(f"{value:.3f}") for value in x[:, 1]]),
            "flag": pa.array(y == 1),
            "pair": pa.array(x[:, 1:].tolist(), pa.list_(pa.float64())),
            "kind": pa.array(NAMES[y]).dictionary_encode(),
            "count": pa.array(y, pa.uint8()),
        },
        metadata={"who": "me"},
    )
    path = tmp_path / "mine.parquet"
    pq.write_table(table, path)
    options = {"label_column": "kind", "drop_columns": ["when"]}
    done = cleansed(path, tmp_path / "out", options)
    assert done.labelled.given.shape == (60, 6) and done.labelled.classes.tolist() == list(NAMES)
    kept = np.flatnonzero(done.found.keep)
    assert done.cleaned.name == "cleaned.parquet"
    assert pq.read_table(done.cleaned).equals(pq.read_table(path).take(kept), check_metadata=True)
    source, labels = done.labelled.source, NAMES[y].copy()
    labels[0] = "cow"
    source.write(tmp_path / "new.parquet", np.arange(60), labels)
    new = pq.read_table(tmp_path / "new.parquet")
    assert new.schema.equals(pq.read_schema(path), check_metadata=True) and new["kind"].to_pylist() == labels.tolist()
    assert new.drop(["kind"]).equals(pq.read_table(path).drop(["kind"]))


def test_what_pandas_wrote_is_read_again_by_pandas(tmp_path):
    frame = pd.DataFrame({"x": [1.5, 2.5, 3.5], "label": [True, False, True]}, index=["i", "j", "k"])
    frame.to_parquet(tmp_path / "mine.parquet")
    own = read_table(tmp_path / "mine.parquet", drop_columns="__index_level_0__")
    assert own.y.tolist() == [True, False, True] and own.x.tolist() == [[1.5], [2.5], [3.5]]
    own.source.write(tmp_path / "new.parquet", np.array([2, 0]), np.array([False, True]))
    expected = pd.DataFrame({"x": [3.5, 1.5], "label": [False, True]}, index=["k", "i"])
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "new.parquet"), expected)


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"x": [1.0, None], "label": ["a", "b"]}, "1 in 'x', the first in row 1"),
        ({"x": [1.0, 2.0], "label": ["a", None]}, r"1 label\(s\) are missing"),
        ({"x": [[1.0], [1.0, 2.0]], "label": ["a", "b"]}, "lists that differ in length"),
        ({"x": ["u", "v"], "label": ["a", "b"]}, "'x' holds text such as 'u'"),
        ({"x": [[1.0, None], [1.0, 2.0]], "label": ["a", "b"]}, "1 in 'x', the first in row 0"),
        ({"x": [1.0, 2.0], "label": [b"a", b"b"]}, "'label' holds binary"),
        ({"x": [], "label": []}, "no rows"),
    ],
)
def test_parquet_columns_that_are_no_numbers_are_refused(tmp_path, columns, named):
    pq.write_table(pa.table(columns), tmp_path / "mine.parquet")
    with pytest.raises(InputError, match=named):
        read_table(tmp_path / "mine.parquet")


def test_without_pyarrow_the_message_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "mine.parquet").touch()
    real = builtins.__import__

    def without(name, *more):
        if name.startswith("pyarrow"):
            raise ImportError("No module named 'pyarrow'")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"needs pyarrow.*pip install 'sgdphases\[parquet\]'"):
        read_table(tmp_path / "mine.parquet")


def test_rows_of_a_table_are_found_in_linear_time(tmp_path):
    path = written(tmp_path, "x,note,label\n" + "".join(f'{k},"a\nb ""{k}""",c\n' for k in range(20_000)))
    assert len(read_text_table(path).records) == 20_000
