"""The registry of data sets, the digits, and the user's own npz files."""

import subprocess
import sys

import numpy as np
import pytest

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.checks import check_dataset
from sgdphases.sim.data.datasets.forms import BUILT_IN, FORMS
from sgdphases.sim.data.datasets.npz import load_npz
from sgdphases.sim.data.datasets.registry import DATASETS, describe_datasets, load_dataset


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def arrays(**changes) -> dict:
    """Contents of a good npz file of 6 training and 4 test samples, with changes; None leaves one out."""
    good = {
        "x_train": np.arange(18.0).reshape(6, 3),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": np.ones((4, 3)),
        "y_test": np.array([0, 1, 2, 0]),
    }
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


@pytest.fixture
def save(tmp_path):
    def save(**changes):
        path = tmp_path / "data.npz"
        np.savez(path, **arrays(**changes))
        return path

    return save


def test_names_and_descriptions():
    names = ["gaussian-mixture", "teacher-student", "digits", "mnist", "cifar10"]
    names += ["npz", "table", "images", "hugging-face"]
    assert list(DATASETS) == names == [*BUILT_IN, *FORMS]
    described = describe_datasets()
    assert [each.name for each in described] == names
    assert all(each.summary.endswith(".") for each in described)
    mixture, teacher, _, mnist, _, npz, table, images, _ = described
    assert "classes=10" in map(str, mixture.options) and mixture.train_size == 1000 and mixture.test_size == 2000
    assert next(o for o in teacher.options if o.name == "teacher").choices == (
        "linear",
        "perceptron",
        "committee",
    )
    assert [str(option) for option in mnist.options] == ["fetch=false"] and mnist.takes_folder
    assert [str(option) for option in npz.options] == ["path", "classes=none", "test_fraction=none"]
    assert npz.options[0].required
    assert "label_column=none" in map(str, table.options) and "damaged=refuse" in map(str, images.options)


def test_importing_the_registry_imports_no_heavy_library():
    code = (
        "import sys, sgdphases.sim.data.datasets.registry, sgdphases.sim.data.label_noise.add\n"
        "print([m for m in ('sklearn', 'scipy', 'torch', 'pydantic', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("minst", {}, "'minst'.*gaussian-mixture, .*did you mean 'mnist'"),
        (
            "gaussian-mixture",
            {"options": {"classe": 3}},
            "no option 'classe'.*=10.*did you mean 'classes'",
        ),
        ("digits", {"options": {"classes": 3}}, "it has no options"),
        ("gaussian-mixture", {"options": {"classes": "ten"}}, "classes='ten'.*leave it out for 10"),
        ("gaussian-mixture", {"options": {"classes": 2.5}}, "classes=2.5"),
        ("gaussian-mixture", {"options": {"classes": True}}, "classes=True.*truth value"),
        ("teacher-student", {"options": {"teacher": "quadratic"}}, "'linear', 'perceptron' or 'committee'"),
        ("mnist", {"options": {"fetch": "perhaps"}}, "fetch='perhaps'"),
        ("mnist", {}, "--data-dir.*fetch=true"),
        ("cifar10", {}, "--data-dir"),
        ("mnist", {"data_dir": "/no/such/folder"}, "/no/such/folder does not exist"),
        ("digits", {"data_dir": "somewhere"}, "reads no data folder.*'somewhere'.*leave it out"),
        ("gaussian-mixture", {"data_dir": "somewhere"}, "reads no data folder"),
        ("data.npz", {"data_dir": "somewhere"}, "give their path as the data set"),
        ("npz", {}, "needs the option path"),
        ("data.npz", {"options": {"path": "other.npz"}}, "already data.npz"),
        ("digits", {"train_size": 1298}, "train_size=1298.*1297"),
        ("digits", {"test_size": 501}, "test_size=501.*500"),
        ("digits", {"train_size": 0}, "train_size must be a whole number of at least 1, not 0"),
        ("digits", {"test_size": 2.0}, "test_size must be a whole number"),
    ],
)
def test_bad_settings_are_refused_with_a_remedy(name, settings, words):
    with pytest.raises(UsageError, match=words):
        load_dataset(name, rng=generator(), **settings)


def test_options_given_as_text_are_converted():
    options = {"classes": "3", "separation": "2", "dimension": 4}
    assert load_dataset("gaussian-mixture", options=options, rng=generator()).n_classes == 3


def test_digits():
    data = load_dataset("digits", rng=generator())
    assert data.x_train.shape == (1297, 1, 8, 8) and data.x_test.shape == (500, 1, 8, 8)
    assert data.x_train.dtype == np.float32 and data.x_train.min() == 0 and data.x_train.max() == 1
    counts = np.bincount(data.y_train) + np.bincount(data.y_test)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # published
    assert data.class_names[7] == "7" and not data.wrong.any()


def test_subsets_are_random_and_without_replacement():
    whole = load_dataset("digits", rng=generator(1))
    part = load_dataset("digits", train_size=100, test_size=50, rng=generator(1))
    again = load_dataset("digits", train_size=100, test_size=50, rng=generator(1))
    other = load_dataset("digits", train_size=100, test_size=50, rng=generator(2))
    assert part.n_samples == len(part.y_clean) == 100 and len(part.x_test) == len(part.y_test) == 50
    assert np.array_equal(part.x_train, again.x_train) and not np.array_equal(part.x_train, other.x_train)
    labels = {x.tobytes(): y for x, y in zip(whole.x_train, whole.y_train, strict=True)}
    assert len({x.tobytes() for x in part.x_train}) == 100
    assert all(labels[x.tobytes()] == y for x, y in zip(part.x_train, part.y_train, strict=True))


def test_subsets_keep_what_is_known_of_wrong_labels(save):
    path = save(y_clean=np.array([0, 1, 2, 0, 1, 1]))
    data = load_dataset(str(path), train_size=6, rng=generator())
    assert data.wrong.sum() == 1 and data.x_train[data.wrong][0, 0] == 15


def test_npz_classes(save):
    path = save()
    data = load_dataset(str(path), rng=generator())
    assert data.n_classes == 3 and data.y_train.dtype == np.int64 and data.x_train.dtype == np.float64
    assert data.name == "data.npz" and data.y_clean is None and data.wrong is None and data.assigned is None
    assert load_dataset("npz", options={"path": str(path), "classes": "5"}, rng=generator()).n_classes == 5
    assert load_npz(save(y_clean=np.array([4, 1, 2, 0, 1, 2]))).n_classes == 5  # the largest of all labels
    assert load_npz(save(y_train=np.zeros(6, bool), y_test=np.ones(4, bool))).n_classes == 2
    assert load_npz(save(y_train=np.zeros(6, int), y_test=np.zeros(4, int))).n_classes == 1


def test_npz_samples(save):
    images = np.full((6, 2, 2), 51, dtype=np.uint8)
    data = load_npz(save(x_train=images, x_test=images[:4]))
    assert data.x_train.dtype == np.float32 and np.allclose(data.x_train, 0.2)
    counts = load_npz(save(x_train=np.full((6, 3), 300)))
    assert counts.x_train.dtype == np.float32 and np.all(counts.x_train == 300)
    assert load_npz(save(x_train=np.ones((6, 3), ">f8"))).x_train.dtype == np.float64
    assert load_npz(save(x_train=np.ones((6, 3), np.float16))).x_train.dtype == np.float32


def test_npz_regression(save):
    data = load_npz(save(y_train=np.arange(6.0), y_test=np.arange(4.0)))  # whole floats are real targets, too
    assert data.n_classes is None and data.y_train.shape == (6, 1) and data.y_test.shape == (4, 1)
    two = load_npz(save(y_train=np.zeros((6, 2), np.float32), y_test=np.zeros((4, 2)), y_clean=np.zeros((6, 2))))
    assert two.n_outputs == 2 and two.y_train.dtype == np.float64 and not two.wrong.any()


NAN = np.where(np.arange(18).reshape(6, 3) == 7, np.nan, 0.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, "lacks y_test; it holds x_train, y_train, x_test"),
        ({"x_train": None, "y_train": None}, "lacks x and y; it holds x_test, y_test"),
        ({"x": np.ones((6, 3))}, "holds both x and x_train"),
        ({"x_train": NAN}, r"x_train holds 1 value.*\[2, 1\]"),
        ({"x_test": np.full((4, 3), -np.inf)}, r"x_test holds 12 value.*\[0, 0\]"),
        ({"y_train": np.array([0, 1, -1, 0, 1, 2])}, r"y_train holds the label -1 at index \[2\]"),
        ({"y_test": np.array([0, 1, 2**40, 0])}, "label 1099511627776 with only 10 samples"),
        ({"y_train": np.zeros(5, int)}, "6 samples but y_train 5"),
        ({"y_test": np.zeros(5, int)}, "4 samples but y_test 5"),
        ({"y_train": np.zeros((6, 1), int)}, r"shape \(6, 1\)"),
        ({"x_train": np.ones(6)}, r"give a single feature the shape \(N, 1\)"),
        ({"x_train": np.ones((6, 4))}, r"\(4,\).*\(3,\).*must be alike"),
        ({"x_train": np.ones((0, 3)), "y_train": np.zeros(0, int)}, "x_train is empty"),
        ({"x_test": np.ones((4, 0))}, "x_test is empty"),
        ({"x_train": np.full((6, 3), "a")}, "x_train has the type <U1"),
        ({"x_train": np.ones((6, 3), complex)}, "complex128"),
        ({"y_train": np.full(6, "cat")}, "mixes text"),
        ({"y_train": np.full(6, 1j)}, "save class labels as integers"),
        ({"y_train": np.array([{}] * 6)}, "Python objects"),
        ({"y_test": np.zeros(4)}, "mixes text, whole-number and floating-point labels"),
        ({"y_clean": np.zeros(6)}, "mixes"),
        ({"y_clean": np.zeros(5, int)}, r"y_clean has the shape \(5,\)"),
        ({"y_clean": np.full(6, -2)}, "y_clean holds the label -2"),
        ({"y_train": np.full(6, np.nan), "y_test": np.zeros(4)}, "y_train holds 6 value"),
        ({"y_train": np.zeros((6, 2)), "y_test": np.zeros(4)}, "must be alike"),
        ({"y_train": np.zeros((6, 1, 1)), "y_test": np.zeros(4)}, r"\(N, outputs\)"),
        ({"y_train": np.array(3), "y_test": np.zeros(4, int)}, "one whole number per sample"),
        ({"y_train": np.array(3.0), "y_test": np.zeros(4)}, r"\(N, outputs\)"),
        ({"x_train": np.array(3.0)}, "floating-point samples"),
    ],
)
def test_bad_npz_is_refused(save, changes, words):
    path = save(**changes)
    with pytest.raises(InputError, match=words) as caught:
        load_dataset(str(path), rng=generator())
    assert "data.npz" in str(caught.value)


def test_npz_number_of_classes_is_checked(save):
    with pytest.raises(InputError, match=r"label 2 at index \[2\].*outside 0..1"):
        load_npz(save(), classes=2)
    with pytest.raises(UsageError, match="classes must be"):
        load_npz(save(), classes=0)
    with pytest.raises(UsageError, match="classes=3 is given"):
        load_npz(save(y_train=np.zeros(6), y_test=np.zeros(4)), classes=3)


def test_damaged_npz_is_refused(save, tmp_path):
    whole = save().read_bytes()
    path = tmp_path / "damaged.npz"
    broken = bytearray(whole)
    broken[whole.index(b"\x93NUMPY") + 140] ^= 0xFF
    for content in (whole[: len(whole) // 2], bytes(broken), b"no archive", b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"damaged\.npz is no usable \.npz file"):
            load_npz(path)
    with pytest.raises(InputError, match="does not exist"):
        load_npz(tmp_path / "absent.npz")


def test_the_validation_counts_across_blocks():
    x = np.zeros((9000, 2), np.float32)
    x[[5000, 8999], 1] = np.nan
    y = np.zeros(9000, np.int64)
    with pytest.raises(InputError, match=r"x_train holds 2 value.*\[5000, 1\]"):
        check_dataset(Dataset("large", x, y, x[:1], y[:1], n_classes=1), "large")
