"""`sgdphases cleanse` as a person meets it."""

import csv
import json
from dataclasses import dataclass

import numpy as np
import pytest
import typer
from cleansed import TURNED, misread_digits
from typer.testing import CliRunner

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.faces.cleanse.command import cleanse

app = typer.Typer(rich_markup_mode="rich")
app.command()(cleanse)
QUICK = ["--hidden", "20", "--checkpoints", "25"]
WRITTEN = {
    "config.toml", "options.json", "watch.npz", "labels.csv", "cleaned.npz", "cleansing.json", "figures", "report.html",
    "review.html",
}  # fmt: skip


@dataclass
class Done:
    """How a command ended, as the entry point of the program would end it."""

    returncode: int
    stdout: str
    stderr: str


def call(*arguments):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    error = done.exception
    if isinstance(error, InputError):
        return Done(2 if isinstance(error, UsageError) else 1, done.stdout, str(error))
    assert error is None or isinstance(error, SystemExit), error
    return Done(done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def own_file(tmp_path_factory):
    """Bytes and text labels, a quarter of them wrong, and which."""
    rng = np.random.default_rng(0)
    right = rng.integers(0, 3, 600)
    x = np.clip(60 * rng.normal(size=(600, 6, 6)) + 60 + 90 * np.eye(36)[right * 7].reshape(-1, 6, 6), 0, 255)
    x[:, :3, :3] += 40 * right[:, None, None]
    given = np.where(rng.random(600) < 0.25, rng.integers(0, 3, 600), right)
    path = tmp_path_factory.mktemp("own") / "mine.npz"
    names = np.array(["ant", "bee", "cow"])
    np.savez(path, x=np.clip(x, 0, 255).astype(np.uint8), y=names[given])
    return path, names[right], names[given]


@pytest.mark.usefixtures("pictures")
def test_a_file_of_ones_own(own_file, tmp_path):
    path, right, given = own_file
    quick = [*QUICK, "--epochs", "250"]
    done = call(path, *quick, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert {each.name for each in (tmp_path / "out").iterdir()} == WRITTEN
    assert {each.name for each in (tmp_path / "out" / "figures").iterdir()} == {
        "losses.png", "agreement.png", "suspects.png",
    }  # fmt: skip
    with open(tmp_path / "out" / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["given"] for row in rows] == list(given) and [int(row["index"]) for row in rows] == list(range(600))
    suggested = np.array([row["suggested"] for row in rows])
    assert np.mean(suggested == right) > np.mean(given == right) + 0.05
    kept = np.array([row["kept"] == "1" for row in rows])
    summary = json.loads((tmp_path / "out" / "cleansing.json").read_text(encoding="utf-8"))
    assert summary["n_flagged"] == (~kept).sum() and summary["has_noise"]
    with np.load(path) as before, np.load(tmp_path / "out" / "cleaned.npz") as after:
        assert np.array_equal(after["index"], np.flatnonzero(kept)) and after["x"].dtype == np.uint8
        assert np.array_equal(after["x"], before["x"][kept]) and np.array_equal(after["y"], before["y"][kept])
    assert "best at t_c: epoch" in done.stdout and done.stdout.strip().splitlines()[-1].startswith("report: ")
    again = call(path, *quick, "--out", tmp_path / "out")  # from its checkpoint: the same labels
    assert again.returncode == 0, again.stderr
    with open(tmp_path / "out" / "labels.csv", newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == rows
    other = call(path, *quick, "--seed", "1", "--out", tmp_path / "out")
    assert other.returncode == 2 and "other settings" in other.stderr


def test_noise_put_in_on_purpose_is_judged(tmp_path):
    done = call("digits", "--noise-fraction", "0.4", *QUICK, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "Area under the ROC curve" in done.stdout and (tmp_path / "out" / "figures" / "reliability.png").exists()
    with np.load(tmp_path / "out" / "cleaned.npz") as data:
        assert data["x_train"].shape[1:] == (1, 8, 8) and len(data["x_test"]) == len(data["y_test"]) == 500


@pytest.mark.usefixtures("pictures")
def test_clean_data_are_said_to_be_clean(tmp_path):
    done = call("digits", *QUICK, "--out", tmp_path / "out")
    assert done.returncode == 0 and "No label is flagged" in done.stdout, done.stderr
    assert "some classes are likely to be hard to learn" in done.stdout  # for so small a network
    with np.load(tmp_path / "out" / "cleaned.npz") as data:
        assert len(data["index"]) == 1297


@pytest.mark.usefixtures("pictures")
def test_a_folder_is_read_as_what_it_holds(mnist_folder, tmp_path):
    few = ["--train-size", "300", "--epochs", "5", "--checkpoints", "4", "--hidden", "10"]
    done = call(mnist_folder, *few, "--out", tmp_path / "one")
    assert done.returncode == 0, done.stderr
    named = call("mnist", "--data-dir", mnist_folder, *few, "--out", tmp_path / "other")
    assert named.returncode == 0, named.stderr
    assert (tmp_path / "one" / "labels.csv").read_bytes() == (tmp_path / "other" / "labels.csv").read_bytes()
    twice = call(mnist_folder, "--data-dir", mnist_folder, *few, "--out", tmp_path / "third")
    assert twice.returncode == 2 and "leave --data-dir out" in twice.stderr


def test_a_folder_of_nothing_known_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    done = call(tmp_path / "mine", *QUICK, "--out", tmp_path / "out")
    assert done.returncode == 2 and "no data set that is known" in done.stderr and not (tmp_path / "out").exists()
    (tmp_path / "mine" / "train-images-idx3-ubyte").touch()
    (tmp_path / "mine" / "data_batch_1.bin").touch()
    assert "files of both" in call(tmp_path / "mine", *QUICK).stderr


@pytest.mark.usefixtures("pictures")
def test_labels_that_a_spreadsheet_would_run_are_escaped_and_numbers_are_not(tmp_path):
    rng = np.random.default_rng(0)
    right = rng.integers(0, 6, 240)
    x = 4 * np.eye(6)[right] + rng.normal(size=(240, 6))
    names = np.array(["=1+1", "@SUM(A1)", "\tcat", "-3", "+x", "-x"])
    np.savez(tmp_path / "text.npz", x=x, y=names[right])
    np.savez(tmp_path / "numbers.npz", x=x, y=right - 3)
    few = ["--hidden", "8", "--epochs", "10", "--checkpoints", "5"]
    for kind, labels in (("text", names[right]), ("numbers", right - 3)):
        done = call(tmp_path / f"{kind}.npz", *few, "--out", tmp_path / kind)
        assert done.returncode == 0, done.stderr
        with open(tmp_path / kind / "labels.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        escaped = {"-3": "-3"} if kind == "text" else {}
        expected = [escaped.get(label, f"'{label}") if kind == "text" else str(label) for label in labels]
        assert [row["given"] for row in rows] == expected
        assert {row["suggested"] for row in rows} <= set(expected)
        with np.load(tmp_path / kind / "cleaned.npz") as cleaned:
            assert np.array_equal(cleaned["y"], labels[cleaned["index"]])


@pytest.mark.usefixtures("pictures")
def test_where_the_share_is_known_so_many_are_removed(tmp_path):
    done = call("digits", *QUICK, "--epochs", "40", "--known-fraction", "0.1", "--out", tmp_path / "out")
    assert done.returncode == 0 and "a share of 10.0% was given" in done.stdout, done.stderr
    summary = json.loads((tmp_path / "out" / "cleansing.json").read_text(encoding="utf-8"))
    assert summary["found_by"] == "given" and summary["n_flagged"] == 130 and summary["noise_fraction"] == 0.1


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ([], 2, "dataset"),
        (["digits", "--known-fraction", "20"], 2, "known_fraction = 20"),
        (["mnits"], 2, "did you mean 'mnist'"),
        (["digits", "--mixture", "gamma"], 2, "--mixture gamma"),
        (["digits", "--epochs", "0"], 2, "epochs"),
        (["digits", "--batch-size", "5000"], 2, "exceeds the 1297"),
        (["teacher-student", "-o", "classes=none"], 2, "classes"),
        (["missing.npz"], 1, "does not exist"),
        (["broken.npz"], 1, "no usable .npz file"),
        (["short.npz"], 1, "give 5 labels"),
        (["same.npz"], 1, "all labels are 1"),
        (["good.npz", "--train-size", "3"], 2, "taken whole"),
        (["digits", "--out", "."], 2, "holds no cleansing"),
        (["digits", "--spectra", "3"], 2, "--spectra"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(tmp_path, monkeypatch, arguments, code, named):
    (tmp_path / "broken.npz").write_text("no archive")
    x = np.zeros((5, 2))
    np.savez(tmp_path / "short.npz", x=x, y=np.array([0, 1, 0]))
    np.savez(tmp_path / "same.npz", x=x, y=np.ones(5, int))
    np.savez(tmp_path / "good.npz", x=x, y=np.array([0, 1, 0, 1, 0]))
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    done = call(*arguments)
    assert done.returncode == code and named.lower() in done.stderr.lower(), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(
    ("turned", "said"),
    [
        (True, "some classes have many wrong labels"),
        (False, "If the inputs determine the class"),
    ],
)
def test_what_networks_contradict_is_said_with_its_doubts(turned, said, tmp_path):
    """Digits of which some classes are read as others, and two overlapping clouds whose labels are all right."""
    if turned:
        x, _, y = misread_digits(TURNED, 0.4)
    else:
        rng = np.random.default_rng(0)
        y = rng.integers(0, 2, 1500)
        x = rng.normal(size=(1500, 2)) + np.outer(y, [1.5, 0])
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    done = call(tmp_path / "mine.npz", "--out", tmp_path / "out")
    words = " ".join(done.stdout.split())
    assert done.returncode == 0 and said in words and "cannot be told from right ones" in words, done.stdout
    assert np.isnan(json.loads((tmp_path / "out" / "cleansing.json").read_text())["noise_fraction"] or np.nan)


@pytest.mark.usefixtures("pictures")
def test_a_rare_class_that_is_not_learnt_is_named_and_kept(tmp_path):
    """Whatever it is, nothing in the inputs tells it from the other class: none of its labels is said to be wrong."""
    rng = np.random.default_rng(0)
    y = np.where(np.arange(600) % 30 == 0, "finding", "nothing")
    np.savez(tmp_path / "rare.npz", x=rng.normal(size=(600, 5)), y=y)
    done = call(tmp_path / "rare.npz", "--epochs", "20", "--hidden", "10", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "labels of classes that lie in it nearly whole (finding)" in " ".join(done.stdout.split())
    said = json.loads((tmp_path / "out" / "cleansing.json").read_text(encoding="utf-8"))
    assert said["whole_share"] > 0.9
    with np.load(tmp_path / "out" / "cleaned.npz") as data:
        assert len(data["index"]) == 600
