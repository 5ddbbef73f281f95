"""The user's own images and tables on the command line: run, resume, cleanse, and what is said about them."""

import warnings

import numpy as np
import pytest
from cleansed import NAMES, blobs, write_images
from PIL import Image
from typer.testing import CliRunner

import sgdphases
from sgdphases.cli import app
from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.faces.terminal import show_data_warnings
from sgdphases.sim.data.datasets.registry import load_dataset
from sgdphases.sim.run.folder import RunFolder
from sgdphases.sim.run.training import advance, prepare

FEW = ["--hidden", "6", "--epochs", "4", "--checkpoints", "4", "--batch-size", "10"]


def call(*arguments):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    if isinstance(done.exception, InputError):
        return 2 if isinstance(done.exception, UsageError) else 1, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of images and a table with a column of text, in the working folder."""
    monkeypatch.chdir(tmp_path)
    x, y = blobs()
    write_images(tmp_path / "photos", NAMES[y].tolist())
    rows = [f"{a},{b},{c},{name},note {k}\n" for k, ((a, b, c), name) in enumerate(zip(x, NAMES[y], strict=True))]
    (tmp_path / "mine.csv").write_text("a,b,c,kind,note\n" + "".join(rows))
    return tmp_path


SMALL = dict(hidden=(6,), epochs=4, checkpoints=4, batch_size=10, alignment_batches=0, backend="numpy")
TABLE = {"label_column": "kind", "drop_columns": ["note"]}


@pytest.mark.parametrize(("data", "options"), [("photos", {}), ("mine.csv", TABLE)])
def test_runs_resume_wherever_the_data_are_and_changed_data_are_noticed(place, data, options):
    whole = sgdphases.run(str(place / data), dataset_options=options, **SMALL, out="run")
    folder = RunFolder(place / "run")
    assert folder.read_settings().dataset_options == options
    steps = advance(prepare(folder.read_settings()), folder)  # as it was when it began
    next(steps)
    steps.close()
    (place / data).rename(place / f"moved-{data}")
    with pytest.raises(InputError, match="does not exist"):
        sgdphases.resume("run")
    folder.config.write_text(folder.config.read_text().replace(str(place / data), str(place / f"moved-{data}")))
    assert sgdphases.resume("run")["loss"].equals(whole["loss"])
    if data == "photos":
        Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(place / "moved-photos" / "ant" / "000.png")
    else:
        (place / "moved-mine.csv").write_text((place / "moved-mine.csv").read_text().replace("ant", "bee", 1))
    with pytest.raises(InputError, match="the data differ from those"):
        sgdphases.resume("run")


@pytest.mark.usefixtures("pictures")
def test_a_cleansing_goes_on_and_notices_changed_images(place):
    code, text = call("cleanse", "photos/", *FEW, "--out", "out")
    assert code == 0 and "review: out/review.html" in text and "cleaned: out/cleaned.csv" in text, text
    labels = (place / "out" / "labels.csv").read_text()
    assert labels.startswith("index,file,given,") and "\n0,ant/000.png,ant," in labels
    assert call("cleanse", "photos", *FEW, "--out", "out")[0] == 0
    assert (place / "out" / "labels.csv").read_text() == labels
    code, text = call("cleanse", "photos", "-o", "size=4", *FEW, "--out", "out")
    assert code == 2 and "other settings" in text
    (place / "photos" / "ant" / "000.png").unlink()
    code, text = call("cleanse", "photos", *FEW, "--out", "out")
    assert code == 1 and "the data differ" in text
    code, text = call("run", "out/cleaned.csv", *FEW, "--out", "again")
    assert code == 1 and "where no file is" in text


def test_results_never_lie_among_the_data(place, monkeypatch):
    for command in ("run", "cleanse", "sweep"):
        code, text = call(command, "photos", *FEW, "--out", "photos/out")
        assert code == 2 and "--out photos/out lies in the folder of the data" in text
    monkeypatch.chdir(place / "photos")
    for command in ("run", "cleanse"):
        code, text = call(command, ".", *FEW)
        assert code == 2 and "the results would lie in the folder of the data" in text
    assert sorted(each.name for each in (place / "photos").iterdir()) == list(NAMES)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["mine.csv"], 2, "--label-column NAME"),
        (["mine.csv", "--label-column", "kind"], 1, "--drop-columns note"),
        (["mine.csv", "--label-column", "knid"], 2, "did you mean 'kind'"),
        (["mine.csv", "--label-column", "kind", "-o", "label_column=note"], 2, "give one of them"),
        (["photos", "--label-column", "kind"], 2, "no option 'label_column'"),
        (["photos", "-o", "size=0"], 2, "size must be a whole number of at least 1"),
        (["photos", "-o", "damaged=maybe"], 2, "damaged='maybe'"),
        (["nowhere/photos"], 1, "does not exist"),
        (["photo"], 2, "no data set is called 'photo'"),
        (["mine.xlsx"], 2, "a .npz, .csv, .tsv or .parquet file, a folder of images"),
    ],
)
def test_mistakes_are_named(place, arguments, code, named):
    found, text = call("cleanse", *arguments, *FEW, "--out", "out")
    assert found == code and named in text, text
    assert not (place / "out").exists()


@pytest.mark.usefixtures("pictures")
def test_a_folder_called_like_a_data_set_is_meant_where_a_path_is_written(place):
    (place / "photos").rename(place / "mnist")
    code, text = call("cleanse", "mnist", *FEW, "--out", "out")
    assert code == 2 and "the folder mnist that is here is called ./mnist" in text
    assert call("cleanse", "./mnist", *FEW, "--out", "out")[0] == 0


def test_warnings_are_lines_without_places_in_the_code(place, capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    (place / "photos" / "ant" / "note.txt").touch()
    with warnings.catch_warnings():
        show_data_warnings()
        load_dataset("photos", rng=np.random.default_rng(0))
    assert capsys.readouterr().err == (
        "Warning: photos: 1 left out, which are no PNG or JPEG images in the folder of a class: 'ant/note.txt'\n"
    )
