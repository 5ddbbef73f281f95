"""MNIST from its files: small made-up ones, whole and damaged in every way, and the real ones."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.data.datasets.registry import load_dataset

IDX_NAMES = {
    "train-images": "train-images-idx3-ubyte",
    "train-labels": "train-labels-idx1-ubyte",
    "t10k-images": "t10k-images-idx3-ubyte",
    "t10k-labels": "t10k-labels-idx1-ubyte",
}


def load(name: str, folder: Path, **options):
    return load_dataset(name, data_dir=folder, options=options, rng=np.random.default_rng(0))


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "train-images": rng.integers(256, size=(12, 28, 28), dtype=np.uint8),
        "train-labels": rng.integers(10, size=12, dtype=np.uint8),
        "t10k-images": rng.integers(256, size=(5, 28, 28), dtype=np.uint8),
        "t10k-labels": rng.integers(10, size=5, dtype=np.uint8),
    }


@pytest.fixture
def mnist(tmp_path):
    for part, array in mnist_arrays().items():
        (tmp_path / IDX_NAMES[part]).write_bytes(idx(array))
    return tmp_path


def check_mnist(folder: Path) -> None:
    data, arrays = load("mnist", folder), mnist_arrays()
    assert data.x_train.shape == (12, 1, 28, 28) and data.x_test.shape == (5, 1, 28, 28)
    assert data.x_train.dtype == np.float32 and data.y_train.dtype == np.int64 and data.n_classes == 10
    assert np.allclose(data.x_train[:, 0], arrays["train-images"] / 255)
    assert np.array_equal(data.y_train, arrays["train-labels"])
    assert np.array_equal(data.y_test, arrays["t10k-labels"]) and not data.wrong.any()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("subfolder", [".", "MNIST/raw"])
def test_mnist_layouts(tmp_path, packed, dotted, subfolder):
    (tmp_path / subfolder).mkdir(parents=True, exist_ok=True)
    for part, array in mnist_arrays().items():
        name = IDX_NAMES[part].replace("-idx", ".idx") if dotted else IDX_NAMES[part]
        content = gzip.compress(idx(array)) if packed else idx(array)
        (tmp_path / subfolder / (name + ".gz" * packed)).write_bytes(content)
    check_mnist(tmp_path)


def test_mnist_packing_is_recognised_by_content(mnist):
    path = mnist / IDX_NAMES["train-images"]
    path.write_bytes(gzip.compress(path.read_bytes()))
    check_mnist(mnist)


GOOD = idx(mnist_arrays()["train-images"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "begins with the bytes .none."),
        (b"\x00\x00", "begins with the bytes 0000"),
        (b"\x00\x00\x0d\x03" + GOOD[4:], "begins with the bytes 00000d03, not with 00000803"),
        (idx(np.zeros(12, np.uint8)), "begins with the bytes 00000801"),
        (GOOD[:10], "ends after 10 bytes, within its header"),
        (GOOD[:-1], r"announces the shape \(12, 28, 28\), 9408 bytes, but holds 9407"),
        (GOOD + b"\x00", "9408 bytes, but holds more than 9408"),
        (GOOD[:4] + struct.pack(">3I", 2**32 - 1, 28, 28) + GOOD[16:], "but holds 9408"),
        (gzip.compress(GOOD, mtime=0)[:-20], "damaged or cut short"),
        (gzip.compress(GOOD, mtime=0)[:300], "damaged or cut short"),
        (gzip.compress(GOOD[:-5], mtime=0), "but holds 9403"),
        (gzip.compress(GOOD + bytes(2**22), mtime=0), "but holds more than 9408"),
        (gzip.compress(GOOD, mtime=0) + b"rubbish", "damaged or cut short"),
        (gzip.compress(GOOD, mtime=0)[:40] + b"\xff" * 40, "damaged or cut short"),
        (idx(np.zeros((12, 32, 32), np.uint8)), "32x32 pixels, expected 28x28"),
        (idx(np.zeros((11, 28, 28), np.uint8)), "11 images but .*train-labels-idx1-ubyte 12 labels"),
        (idx(np.zeros((0, 28, 28), np.uint8)), "holds no images"),
    ],
)
def test_bad_mnist_images_are_refused(mnist, content, words):
    (mnist / IDX_NAMES["train-images"]).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        load("mnist", mnist)
    assert "train-images-idx3-ubyte" in str(caught.value)


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_bad_mnist_labels_are_refused(mnist, part):
    labels = mnist_arrays()[f"{part}-labels"]
    labels[3] = 10
    (mnist / IDX_NAMES[f"{part}-labels"]).write_bytes(idx(labels))
    with pytest.raises(InputError, match=rf"{part}-labels-idx1-ubyte holds the label 10 at index \[3\]"):
        load("mnist", mnist)


@pytest.mark.parametrize("part", IDX_NAMES)
def test_missing_mnist_files_are_named(mnist, part):
    (mnist / IDX_NAMES[part]).unlink()
    with pytest.raises(InputError, match=rf"found no file {IDX_NAMES[part]} .*--data-dir.*fetch=true"):
        load("mnist", mnist)
    with pytest.raises(UsageError, match="is not a folder"):
        load("mnist", mnist / IDX_NAMES["train-images" if part != "train-images" else "t10k-images"])


def openml(monkeypatch, answer):
    import sklearn.datasets

    calls = []

    def fetch_openml(name, **settings):
        calls.append((name, settings))
        return answer()

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch_openml)
    return calls


def test_mnist_fetched(monkeypatch, tmp_path):
    images = np.zeros((60_003, 784), np.uint8)
    images[60_001] = 255
    labels = np.array(["7"] * 60_000 + ["1", "2", "3"])
    calls = openml(monkeypatch, lambda: (images, labels))
    data = load("mnist", tmp_path, fetch=True)
    assert calls[0][0] == "mnist_784" and calls[0][1]["data_home"] == str(tmp_path)
    assert data.n_samples == 60_000 and data.y_test.tolist() == [1, 2, 3]
    assert data.x_test.shape == (3, 1, 28, 28) and np.all(data.x_test[1] == 1)


def test_mnist_fetch_that_fails(monkeypatch, tmp_path):
    def offline():
        raise OSError("no route to host")

    openml(monkeypatch, offline)
    with pytest.raises(InputError, match=r"could not be fetched .*no route to host.*--data-dir"):
        load("mnist", tmp_path, fetch="true")
    openml(monkeypatch, lambda: (np.zeros((10, 784)), np.array(["0"] * 10)))
    with pytest.raises(InputError, match=r"shape \(10, 784\)"):
        load("mnist", tmp_path, fetch=True)


def real_data() -> Path | None:
    given = os.environ.get("SGDPHASES_DATA")
    folder = Path(given) if given else Path(__file__).parents[4] / "shared" / "data"
    return folder / "mnist" if (folder / "mnist").is_dir() else None


@pytest.mark.skipif(real_data() is None, reason="no real MNIST; SGDPHASES_DATA names a folder that holds mnist/")
def test_real_mnist():
    data = load("mnist", real_data())
    assert data.x_train.shape == (60_000, 1, 28, 28) and data.x_test.shape == (10_000, 1, 28, 28)
    published = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.y_train).tolist() == published
    assert np.bincount(data.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.x_train.mean() == pytest.approx(0.1307, abs=5e-5)  # the widely quoted mean
