"""Files of one's own: `run` and `cleanse` read the same ones, and badly scaled features are scaled or named."""

import csv
import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from two_lengths import slow
from typer.testing import CliRunner

from sgdphases.cli import app
from sgdphases.estimators.errors import InputError, TrainingDiverged, UsageError
from sgdphases.sim.cleansing.data import labelled_data
from sgdphases.sim.cleansing.find import find_wrong_labels
from sgdphases.sim.data.datasets.npz import load_npz
from sgdphases.sim.data.datasets.registry import load_dataset
from sgdphases.sim.data.scaling import centre_and_spread, rescaled, scaling_problem
from sgdphases.sim.run.folder import RunFolder
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.run.training import advance, prepare

RUN = ["--hidden", "8", "--epochs", "4", "--checkpoints", "4", "--batch-size", "10", "--alignment-batches", "0"]
CLEANSE = ["--hidden", "8", "--epochs", "10", "--checkpoints", "6", "--batch-size", "10"]
NAMES = np.array(["ant", "bee", "cow"])


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 150)
    return 3 * np.eye(3)[y] + 0.5 * rng.normal(size=(150, 3)), y


def call(*arguments):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exception is None, done.exception
    return done


FORMS = {
    "x and y": lambda x, y: {"x": x, "y": y},
    "text": lambda x, y: {"x": x, "y": NAMES[y]},
    "bytes text": lambda x, y: {"x": x, "y": NAMES[y].astype("S")},
    "numbers from 5": lambda x, y: {"x": x, "y": 10 * y + 5},
    "with right labels": lambda x, y: {"x": x, "y": y, "y_clean": y[::-1]},
    "images": lambda x, y: {"x": np.clip(60 * x, 0, 255).astype(np.uint8).reshape(-1, 1, 3), "y": y},
    "train only": lambda x, y: {"x_train": x, "y_train": y},
    "train and test": lambda x, y: {"x_train": x[:100], "y_train": y[:100], "x_test": x[100:], "y_test": y[100:]},
    "train and test, text": lambda x, y: {
        "x_train": x[:100], "y_train": NAMES[y[:100]], "x_test": x[100:], "y_test": NAMES[y[100:]],
    },
}  # fmt: skip


SHORT_FORMS = ("text", "with right labels", "images", "train and test, text")


@pytest.mark.parametrize("form", [form if form in SHORT_FORMS else slow(form) for form in FORMS])
@pytest.mark.usefixtures("pictures")
def test_run_and_cleanse_read_the_same_files_and_run_reads_what_cleanse_wrote(tmp_path, blobs, form):
    arrays = FORMS[form](*blobs)
    np.savez(tmp_path / "mine.npz", **arrays)
    call("run", tmp_path / "mine.npz", *RUN, "--out", tmp_path / "run")
    call("cleanse", tmp_path / "mine.npz", *CLEANSE, "--out", tmp_path / "cleansed")
    call("run", tmp_path / "cleansed" / "cleaned.npz", *RUN, "--out", tmp_path / "again")
    assert labelled_data(make_settings({"dataset": str(tmp_path / "cleansed" / "cleaned.npz")})).data.n_classes == 3
    for name in ("run", "again"):
        assert RunFolder(tmp_path / name).read_trajectory()["epoch"][-1] == 4
    with open(tmp_path / "cleansed" / "labels.csv", newline="", encoding="utf-8") as file:
        given = [row["given"] for row in csv.DictReader(file)]
    labels = arrays.get("y", arrays.get("y_train"))
    assert given == [each.decode() if isinstance(each, bytes) else str(each) for each in labels]
    with np.load(tmp_path / "cleansed" / "cleaned.npz") as cleaned:
        name, kept = ("x_train" if "x_test" in arrays else "x"), cleaned["index"]
        before = arrays.get("x", arrays.get("x_train"))
        assert np.array_equal(cleaned[name], before[kept]) and cleaned[name].dtype == before.dtype
        if "x_test" in arrays:
            assert np.array_equal(cleaned["x_test"], arrays["x_test"])
            assert np.array_equal(cleaned["y_test"], arrays["y_test"])


def test_the_test_set_is_split_off_by_the_seed(tmp_path, blobs):
    x, y = blobs
    path = tmp_path / "mine.npz"
    np.savez(path, x=x, y=NAMES[y], y_clean=NAMES[y])

    def loaded(seed, **options):
        return load_dataset(str(path), options=options, rng=np.random.default_rng(seed))

    one, same, other, half = loaded(0), loaded(0), loaded(1), loaded(0, test_fraction="0.5")
    assert (len(one.x_train), len(one.x_test), len(half.x_test)) == (120, 30, 75) and one.class_names == tuple(NAMES)
    assert np.array_equal(one.x_test, same.x_test) and not np.array_equal(one.x_test, other.x_test)
    rows = {row.tobytes(): label for row, label in zip(x, y, strict=True)}
    for part, labels in ((one.x_train, one.y_train), (one.x_test, one.y_test)):
        assert [rows[row.tobytes()] for row in part] == labels.tolist()
    assert len({row.tobytes() for row in np.concatenate([one.x_train, one.x_test])}) == 150
    assert one.y_clean.shape == (120,) and not one.wrong.any()
    assert len(loaded(0, test_fraction=0.2).x_train) == 120
    regression = tmp_path / "real.npz"
    np.savez(regression, x=x, y=x[:, 0])
    assert load_npz(regression).y_test.shape == (30, 1)


@pytest.mark.parametrize(
    ("options", "arrays", "error", "named"),
    [
        ({"test_fraction": 0}, {}, UsageError, "between 0 and 1"),
        ({"test_fraction": 1.5}, {}, UsageError, "between 0 and 1"),
        ({"test_fraction": 0.3}, {"x_test": np.ones((2, 3)), "y_test": np.zeros(2, int)}, UsageError, "no effect"),
        ({"classes": 3}, {"y": np.array(list("ababab"))}, UsageError, "text labels"),
        ({}, {"y": np.zeros(5, int)}, InputError, "6 samples but y 5"),
        ({}, {"y": np.array(["a", "b", "\udcff"] * 2)}, InputError, "which is no Unicode text"),
        ({}, {"y": np.array(2)}, InputError, "one label per sample"),
        ({}, {"x": np.ones((1, 3)), "y": np.zeros(1, int)}, InputError, "too few to set"),
        ({}, {"x": np.array(["a"] * 6)}, InputError, "save the samples as numbers"),
        ({}, {"x": np.array(1.0)}, InputError, "0 samples"),
    ],
)
def test_what_cannot_be_split_is_refused(tmp_path, options, arrays, error, named):
    np.savez(tmp_path / "mine.npz", **{"x": np.ones((6, 3)), "y": np.arange(6) % 2, **arrays})
    with pytest.raises(error, match=named):
        load_npz(tmp_path / "mine.npz", **options)


SIZES = {
    "all times 1000": lambda x: 1000 * x,
    "one feature of a million": lambda x: x * np.array([1, 1e6, 1]),
    "all beyond the range of float32": lambda x: x * 1e300,
    "all tiny": lambda x: x * 1e-5,
    "far from 0": lambda x: x + 1e4,
}


@pytest.mark.parametrize(
    "size",
    ["one feature of a million", "all beyond the range of float32"]
    + [slow(size) for size in ("all times 1000", "all tiny", "far from 0")],
)
@pytest.mark.usefixtures("pictures")
def test_badly_scaled_features_are_scaled_and_learnt(tmp_path, blobs, size):
    x, y = blobs
    np.savez(tmp_path / "mine.npz", x=SIZES[size](x), y=y)
    done = call("run", tmp_path / "mine.npz", *RUN, "--epochs", "20", "--out", tmp_path / "run")
    assert "are standardised" in done.stdout
    folder = RunFolder(tmp_path / "run")
    assert folder.read_settings().standardize == "always" and 'standardize = "always"' in folder.config.read_text()
    assert folder.read_trajectory()["test_error"][-1] < 0.1
    call("resume", folder.path)


def test_well_scaled_features_are_left_alone_and_so_are_old_runs(tmp_path, blobs):
    x, y = blobs
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    done = call("run", tmp_path / "mine.npz", *RUN, "--out", tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert "standardised" not in done.stdout and folder.read_settings().standardize == "never"
    assert set(map(bytes, prepare(folder.read_settings()).data.x_train)) <= set(map(bytes, x))
    asked = prepare(make_settings({"dataset": str(tmp_path / "mine.npz"), "standardize": "always"})).data
    np.testing.assert_allclose(asked.x_train.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(asked.x_train.std(axis=0), 1)
    folder.config.write_text(folder.config.read_text().replace('standardize = "never"\n', ""))
    assert folder.read_settings().standardize == "never"
    generated = make_settings({"dataset": "gaussian-mixture", "dataset_options": {"separation": 500.0}})
    assert prepare(generated).settings.standardize == "never"


def test_unscaled_features_are_named_where_training_diverges(tmp_path, blobs):
    x, y = blobs
    np.savez(tmp_path / "mine.npz", x=x * np.array([1, 1e9, 1]), y=y)
    settings = dict(dataset=str(tmp_path / "mine.npz"), standardize="never", hidden=(8,), epochs=5, batch_size=10)
    folder = RunFolder(tmp_path / "run")
    experiment = prepare(make_settings(settings))
    folder.path.mkdir()
    folder.config.write_text("")
    with pytest.raises(TrainingDiverged, match=r"scale the inputs, whose feature \[1\] has the root mean square"):
        for _ in advance(experiment, folder):
            pass


def test_cleansing_scales_files_with_a_test_set_as_those_without(tmp_path, blobs):
    x, y = blobs
    np.savez(tmp_path / "whole.npz", x=100 * x, y=y)
    np.savez(tmp_path / "parted.npz", x_train=100 * x, y_train=y, x_test=100 * x[:5], y_test=y[:5])
    whole, parted = (
        labelled_data(make_settings({"dataset": str(tmp_path / f"{name}.npz")})) for name in ("whole", "parted")
    )
    assert np.array_equal(whole.data.x_train, parted.data.x_train)
    assert np.array_equal(parted.data.x_test, parted.data.x_train[:5])
    assert np.array_equal(parted.given, 100 * x) and np.array_equal(parted.given_test, 100 * x[:5])
    plain = labelled_data(make_settings({"dataset": str(tmp_path / "whole.npz"), "standardize": "never"}))
    assert np.array_equal(plain.data.x_train, 100 * x)
    assert {field.name for field in dataclasses.fields(plain)} == {
        "data", "classes", "given", "given_test", "source", "index",
    }  # fmt: skip


@example(1e-14 * np.eye(12, 3), 1.0, 1.0)  # a mean that no float64 is closer to than 1 % of the deviation
@given(
    hnp.arrays(np.float64, (12, 3), elements=st.floats(-1, 1)),
    st.floats(-300, 300).map(lambda power: 10.0**power),
    st.floats(-1e3, 1e3),
)
def test_standardised_features_have_mean_0_and_variance_1_or_are_0(x, factor, shift):
    x = (x + shift) * factor
    centre, spread = centre_and_spread(x)
    scaled = rescaled(x, centre, spread)
    assert np.isfinite(scaled).all()
    rounded = np.finfo(np.float64).eps * np.abs(x).max(axis=0) / spread  # of the mean, in units of the deviation
    for feature, least in zip(scaled.T, rounded, strict=True):
        if np.ptp(feature) == 0 or np.abs(feature).max() < 1e-3:
            continue  # constant, up to rounding
        assert abs(feature.mean()) < 1e-3 + least and abs(feature.std() - 1) < 1e-3


def test_sizes_are_judged_without_overflow():
    x = np.ones((5, 2))
    assert scaling_problem(x) == "" and scaling_problem(np.zeros((5, 2))) == ""
    assert "feature [1] has the root mean square 1e+300" in scaling_problem(x * np.array([1, 1e300]))
    assert "above 1e-200" in scaling_problem(x * 1e-200)
    assert scaling_problem(x.astype(np.float32)) == ""


@pytest.mark.parametrize("factor", [1e3, 1e300, 1e-300])
def test_wrong_labels_do_not_depend_on_the_unit(blobs, factor):
    x, right = blobs
    rng = np.random.default_rng(1)
    y = np.where(rng.random(150) < 0.3, (right + rng.integers(1, 3, 150)) % 3, right)
    common = dict(standardize=True, hidden=(10,), epochs=100, probes=10, batch_size=10)
    one, other = (find_wrong_labels(samples, y, **common) for samples in (x, x * factor))
    assert one.has_noise and other.has_noise
    np.testing.assert_allclose(one.wrong_probability, other.wrong_probability, atol=1e-2)
