"""`sgdphases apply`: decisions carried out on data of every form, and what is wrong with them named."""

import csv

import datasets
import numpy as np
import pandas as pd
import pytest
import typer
from cleansed import NAMES, blobs, cleansed, write_images
from typer.testing import CliRunner

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.faces.review.command import apply
from sgdphases.sim.cleansing.folder import label_cell

app = typer.Typer()
app.command()(apply)


def call(*arguments):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    if isinstance(done.exception, InputError):
        return 2 if isinstance(done.exception, UsageError) else 1, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def write_decisions(path, done, decisions):
    """As the page writes them: sample -> (decision, label)."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["index", "given", "suggested", "decision", "label", "cleansing"])
        for sample, (kind, label) in decisions.items():
            writer.writerow([sample, "", "", kind, label, done.folder.labels_mark()])
    return path


def table(place):
    x, y = blobs()
    rows = [f"{a},{b},{c},{name},note {k}\n" for k, ((a, b, c), name) in enumerate(zip(x, NAMES[y], strict=True))]
    (place / "mine.csv").write_text("a,b,c,label,note\n" + "".join(rows))
    return rows


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    place = tmp_path_factory.mktemp("table")
    rows = table(place)
    return cleansed(place / "mine.csv", place / "out", {"drop_columns": "note"}), rows


def expected_after(done, decisions):
    """Samples that stay and their labels, by the words of the page."""
    labels = done.labelled.classes[done.labelled.data.y_train].copy()
    suggested = done.labelled.classes[done.found.suggested]
    keep = np.ones(len(labels), dtype=bool)
    for sample, (kind, label) in decisions.items():
        labels[sample] = {"suggestion": suggested[sample], "other": label}.get(kind, labels[sample])
        keep[sample] = kind != "drop"
    return np.flatnonzero(keep), labels


def some_decisions(done):
    given = done.labelled.data.y_train
    flagged, others = np.flatnonzero(~done.found.keep), np.flatnonzero(done.found.keep)
    other = str(label_cell(done.labelled.classes[(given[flagged[1]] + 1) % 3]))
    return {
        flagged[0]: ("drop", ""), flagged[1]: ("other", other), flagged[2]: ("keep", ""), flagged[3]: ("skip", ""),
        others[0]: ("suggestion", ""), others[1]: ("drop", ""),
    }  # fmt: skip


def test_a_table_is_relabelled_row_by_row(done, tmp_path):
    cleansing, rows = done
    decisions = some_decisions(cleansing)
    path = write_decisions(tmp_path / "decisions.csv", cleansing, decisions)
    before = (cleansing.folder.path.parent / "mine.csv").read_bytes()
    code, text = call(path, "--cleansing", cleansing.folder.path, "--out", tmp_path / "new" / "clean.csv")
    assert code == 0 and "2 dropped" in text and "58 samples written" in text, text
    index, labels = expected_after(cleansing, decisions)
    lines = (tmp_path / "new" / "clean.csv").read_text().splitlines(keepends=True)[1:]
    assert lines == [rows[k].replace(f",{NAMES[k % 3]},", f",{labels[k]},") for k in index]
    assert (cleansing.folder.path.parent / "mine.csv").read_bytes() == before


def test_others_go_as_cleanse_found(done, tmp_path):
    cleansing, _ = done
    decisions = some_decisions(cleansing)
    path = write_decisions(tmp_path / "decisions.csv", cleansing, decisions)
    code, text = call(
        path, "--cleansing", cleansing.folder.path, "--others", "cleanse", "--out", tmp_path / "clean.csv"
    )
    assert code == 0, text
    index, _ = expected_after(cleansing, decisions)
    spared = [k for k, (kind, _) in decisions.items() if kind in ("keep", "other")]
    stay = [k for k in index if cleansing.found.keep[k] or k in spared]
    lines = (tmp_path / "clean.csv").read_text().splitlines()[1:]
    assert [line.split(",")[-1] for line in lines] == [f"note {k}" for k in stay]
    assert f"{60 - len(stay) - 2} removed as `cleanse` found" in text


def test_every_form_comes_back_as_it_came(tmp_path):
    x, y = blobs()
    hostile = np.array(["=1+1", '</script>"\n', "🐝"])
    np.savez(tmp_path / "mine.npz", x=x, y=hostile[y])
    pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "label": pd.Categorical(NAMES[y])}).to_parquet(tmp_path / "mine.parquet")
    write_images(tmp_path / "photos", NAMES[y].tolist())
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"a": x[:, 0], "b": x[:, 1], "label": y}).save_to_disk(tmp_path / "saved")
    for form, out in (("mine.npz", "new.npz"), ("mine.parquet", "new.parquet"), ("photos", "new"), ("saved", "newer")):
        cleansing = cleansed(tmp_path / form, tmp_path / f"out-{form}")
        decisions = some_decisions(cleansing)
        path = write_decisions(tmp_path / f"out-{form}" / "decisions.csv", cleansing, decisions)
        code, text = call(path, "--out", tmp_path / out)  # the cleansing lies beside the decisions
        assert code == 0, text
        decisions = {k: (kind, label.removeprefix("'")) for k, (kind, label) in decisions.items()}
        index, labels = expected_after(cleansing, decisions)
        again = cleansed(tmp_path / out, tmp_path / f"again-{form}")
        found = again.labelled.classes[again.labelled.data.y_train]
        if form == "photos":  # in the order of their classes and names
            names = cleansing.labelled.source.files
            index = np.array(sorted(index, key=lambda k: (labels[k], names[k].split("/")[1])))
        assert found.tolist() == labels[index].tolist(), form
        assert np.array_equal(again.labelled.given, cleansing.labelled.given[index]), form


WRONG = {
    "{0},,,sugest,,{mark}": (1, "row 2 says 'sugest': write one of keep, suggestion"),
    "x,,,keep,,{mark}": (1, "row 2 has the index 'x'"),
    "-1,,,keep,,{mark}": (1, "row 2 has the index '-1'"),
    "99,,,keep,,{mark}": (1, "row 2 is about sample 99, but there are only 60"),
    "1,,,keep,,{mark}\n1,,,drop,,{mark}": (1, "rows 2 and 3 decide about the same sample"),
    "1,,,other,dog,{mark}": (1, "row 2 has the label 'dog', which is no class of the data: these are ant, bee, cow"),
    "1,,,other,,{mark}": (1, "row 2 has the label ''"),
    "1,,,keep,ant,{mark}": (1, "row 2 says keep, which means 'bee', and the label 'ant'"),
    "1,,,keep,,0123": (2, "is about another cleansing than"),
    "1,,,keep,,{mark}\n2,,,keep,,0123": (1, "about 2 cleansings"),
}


@pytest.mark.parametrize("lines", WRONG, ids=range(len(WRONG)))
def test_decisions_that_make_no_sense_are_named(done, tmp_path, lines):
    cleansing, _ = done
    code, named = WRONG[lines]
    text = lines.format(0, mark=cleansing.folder.labels_mark())
    (tmp_path / "decisions.csv").write_text(f"index,given,suggested,decision,label,cleansing\n{text}\n")
    out = tmp_path / "clean.csv"
    found, message = call(tmp_path / "decisions.csv", "--cleansing", cleansing.folder.path, "--out", out)
    assert found == code and named in message, message
    assert not out.exists()


def test_places_and_changed_data_are_checked(tmp_path, monkeypatch):
    table(tmp_path)
    cleansing = cleansed(tmp_path / "mine.csv", tmp_path / "out", {"drop_columns": "note"})
    path = write_decisions(tmp_path / "decisions.csv", cleansing, {0: ("drop", "")})
    monkeypatch.chdir(tmp_path)
    code, message = call(path, "--out", "new.csv")
    assert code == 2 and "name its folder with --cleansing" in message
    for out, named in (("mine.csv", "is there already"), ("new.parquet", "a .csv file"), ("new", "a .csv file")):
        code, message = call(path, "--cleansing", "out", "--out", out)
        assert code == 2 and named in message, message
    code, message = call(path, "--cleansing", "out", "--out", "new.csv", "--others", "drop")
    assert code == 2 and "choose one of keep, cleanse" in message
    (tmp_path / "mine.csv").write_text((tmp_path / "mine.csv").read_text().replace("ant", "bee", 1))
    code, message = call(path, "--cleansing", "out", "--out", "new.csv")
    assert code == 1 and "the data differ from those" in message
    (tmp_path / "cleansed").mkdir()
    (tmp_path / "out").rename(tmp_path / "cleansed" / "mine-001")
    table(tmp_path)
    code, message = call(path, "--out", "new.csv")
    assert code == 0, message
    assert len((tmp_path / "new.csv").read_text().splitlines()) == 60


def test_a_folder_in_the_data_is_refused(tmp_path):
    write_images(tmp_path / "photos", [*NAMES] * 10)
    cleansing = cleansed(tmp_path / "photos", tmp_path / "out")
    path = write_decisions(tmp_path / "out" / "decisions.csv", cleansing, {0: ("drop", "")})
    code, message = call(path, "--out", tmp_path / "photos" / "new")
    assert code == 2 and "in the folder of the data" in message
    code, message = call(path, "--out", tmp_path / "new.csv")
    assert code == 2 and "what is written is a folder" in message
