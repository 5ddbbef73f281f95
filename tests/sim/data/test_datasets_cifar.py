"""CIFAR-10 from made-up files, whole and damaged in every way, and pickles that mean harm."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from sgdphases.estimators.errors import InputError
from sgdphases.sim.data.datasets.registry import load_dataset

BATCHES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]


def load(name: str, folder: Path, **options):
    return load_dataset(name, data_dir=folder, options=options, rng=np.random.default_rng(0))


def cifar_batch(i: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(i)
    images = rng.integers(256, size=(i + 2, 3072), dtype=np.uint8)
    return images, rng.integers(10, size=i + 2, dtype=np.uint8)


@pytest.fixture
def cifar_binary(tmp_path):
    for i, name in enumerate(BATCHES):
        images, labels = cifar_batch(i)
        (tmp_path / f"{name}.bin").write_bytes(np.column_stack([labels, images]).tobytes())
    return tmp_path


def pickled(images, labels, protocol: int = 2, keys=(b"data", b"labels")) -> bytes:
    labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
    return pickle.dumps({b"batch_label": b"made up", keys[1]: labels, keys[0]: images}, protocol=protocol)


def write_pickles(folder: Path, **settings) -> None:
    for i, name in enumerate(BATCHES):
        (folder / name).write_bytes(pickled(*cifar_batch(i), **settings))


def check_cifar(folder: Path) -> None:
    data = load("cifar10", folder)
    images = np.concatenate([cifar_batch(i)[0] for i in range(5)])
    assert data.x_train.shape == (20, 3, 32, 32) and data.x_test.shape == (7, 3, 32, 32)
    assert data.x_train.dtype == np.float32 and data.n_classes == 10 and data.class_names[3] == "cat"
    assert np.allclose(data.x_train.reshape(20, -1), images / 255)
    assert np.array_equal(data.y_test, cifar_batch(5)[1]) and data.y_test.dtype == np.int64


def test_cifar_binary(cifar_binary):
    check_cifar(cifar_binary)
    below = cifar_binary / "cifar-10-batches-bin"
    below.mkdir()
    for path in cifar_binary.glob("*.bin"):
        path.rename(below / path.name)
    check_cifar(cifar_binary)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("keys", [(b"data", b"labels"), ("data", "labels")])
@pytest.mark.parametrize("subfolder", [".", "cifar-10-batches-py"])
def test_cifar_python(tmp_path, protocol, keys, subfolder):
    (tmp_path / subfolder).mkdir(exist_ok=True)
    write_pickles(tmp_path / subfolder, protocol=protocol, keys=keys)
    check_cifar(tmp_path)


def python2_batch(images: np.ndarray, labels: np.ndarray) -> bytes:
    """A batch as Python 2 wrote it: byte strings under 'S' codes, numpy's old module name."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<I", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R("
    dtype += number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R("
    array += number(1) + number(len(images)) + number(3072) + b"\x86" + dtype + b"\x89" + text(images.tobytes()) + b"tb"
    listing = b"](" + b"".join(map(number, labels.tolist())) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + listing + b"u."


def test_cifar_python_2(tmp_path):
    for i, name in enumerate(BATCHES):
        content = python2_batch(*cifar_batch(i))
        assert np.array_equal(pickle.loads(content, encoding="bytes")[b"data"], cifar_batch(i)[0])
        (tmp_path / name).write_bytes(content)
    check_cifar(tmp_path)


def test_cifar_python_in_fortran_order(tmp_path):
    write_pickles(tmp_path)
    images, labels = cifar_batch(0)
    (tmp_path / "data_batch_1").write_bytes(pickled(np.asfortranarray(images), labels))
    check_cifar(tmp_path)


class Malicious:
    """Unpickled in the ordinary way, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_runs_no_code(tmp_path, protocol):
    write_pickles(tmp_path)
    trap = tmp_path / "trap"
    images, labels = cifar_batch(0)
    content = pickle.dumps({b"data": images, b"labels": labels.tolist(), b"x": Malicious(trap)}, protocol)
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(InputError, match=r"data_batch_1: it asks to load \w+.mkdir, .*not read"):
        load("cifar10", tmp_path)
    assert not trap.exists()
    pickle.loads(content)
    assert trap.exists()  # the trap works


@pytest.mark.parametrize(
    "name",
    ["builtins\neval", "numpy\nload", "numpy\nfrombuffer", "os\nsystem", "numpy.core.multiarray\nscalar"],
)
def test_every_other_name_is_refused(tmp_path, name):
    write_pickles(tmp_path)
    (tmp_path / "test_batch").write_bytes(b"c" + name.encode() + b"\n(S'1'\ntR.")
    with pytest.raises(InputError, match="test_batch: it asks to load"):
        load("cifar10", tmp_path)


IMAGES, LABELS = cifar_batch(0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged or no CIFAR-10 batch"),
        (pickled(IMAGES, LABELS)[:-100], "damaged or no CIFAR-10 batch"),
        (pickled(IMAGES, LABELS) + b"x", "is no CIFAR-10 batch"),
        (pickle.dumps([1, 2]), "is no CIFAR-10 batch"),
        (pickle.dumps({b"data": 1}), "lacks the array 'data'"),
        (pickled(IMAGES, [[0], [1]]), "no whole numbers"),
        (pickled(IMAGES, [0.0, 1.0]), "no whole numbers"),
        (pickled(IMAGES, [0, 1, 2]), "2 images but 3 labels"),
        (pickled(IMAGES, [0, 10]), "outside 0..9, from 0 to 10"),
        (pickled(IMAGES, [-1, 2**70]), "outside 0..9"),
        (pickled(IMAGES[:, :-1], LABELS), r"shape \(2, 3071\), expected \(N, 3072\)"),
        (pickled(IMAGES[:0], LABELS[:0], protocol=4), r"shape \(0, 3072\)"),
        (pickled(IMAGES.astype(np.int16), LABELS), "not unsigned byte"),
        (pickled(IMAGES.astype(object), LABELS), "not unsigned byte"),
        (b"c_codecs\nencode\n(Vabc\nVrot13\ntR.", "encoding 'rot13'"),
    ],
)
def test_bad_cifar_python_files_are_refused(tmp_path, content, words):
    write_pickles(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        load("cifar10", tmp_path)
    assert "data_batch_1" in str(caught.value)


def test_an_array_that_lies_about_its_size_is_refused(tmp_path):
    write_pickles(tmp_path)
    content = python2_batch(IMAGES, LABELS).replace(b"J\x02\x00\x00\x00J\x00\x0c", b"J\x02\x00\x00\x7fJ\x00\x0c")
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(InputError, match="array that cannot be read"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds 0 bytes"),
        (bytes(3072), "holds 3072 bytes, expected a whole number of records of 3073 bytes"),
        (bytes(3073) + b"\x0a" + bytes(3072), r"label 10 at index \[1\]"),
    ],
)
def test_bad_cifar_binary_files_are_refused(cifar_binary, content, words):
    (cifar_binary / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        load("cifar10", cifar_binary)
    assert "data_batch_2.bin" in str(caught.value)


def test_missing_cifar_files_are_named(cifar_binary, tmp_path):
    (cifar_binary / "data_batch_4.bin").unlink()
    with pytest.raises(InputError, match=r"missing .*data_batch_4\.bin;"):
        load("cifar10", cifar_binary)
    write_pickles(tmp_path)
    check_cifar(tmp_path)  # the complete Python files serve
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"missing data_batch_1\.bin, or data_batch_1,.*--data-dir"):
        load("cifar10", tmp_path / "none")
