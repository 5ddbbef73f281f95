"""Labels and transition matrices read from files, good and bad."""

import numpy as np
import pytest

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.cleansing.data import labelled_data
from sgdphases.sim.data.label_noise.add import load_labels, load_transition
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.run.training import noisy_data


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", "0,2,1\n"), ("a.csv", "0\n2\n1\n"), ("a.txt", "# mine\n0 2 1"), ("a.txt", "0.0\n2\n1")],
)
def test_label_files(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    labels = load_labels(path)
    assert labels.tolist() == [0, 2, 1] and labels.dtype == np.int64


def test_label_arrays_and_targets(tmp_path):
    np.save(tmp_path / "a.npy", np.array([3, 1], np.uint8))
    assert load_labels(tmp_path / "a.npy").dtype == np.int64
    (tmp_path / "b.csv").write_text("\ufeff0.5,1\n2,3\n", encoding="utf-8")  # as spreadsheets save it
    assert load_labels(str(tmp_path / "b.csv")).tolist() == [[0.5, 1], [2, 3]]
    (tmp_path / "c.txt").write_text("0.9 0.1\n0 1\n")
    assert load_transition(tmp_path / "c.txt").tolist() == [[0.9, 0.1], [0, 1]]


@pytest.mark.parametrize("load", [load_labels, load_transition])
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", b"rubbish", "cannot be read as numbers"),
        ("a.npy", b"", "cannot be read as numbers"),
        ("a.csv", b"label\n1\n", "cannot be read as numbers"),
        ("a.csv", b"1,2\n3\n", "cannot be read as numbers"),
        ("a.csv", b"\xff\xfe", "cannot be read as numbers"),
        ("a.txt", b"", "is empty"),
        ("a.txt", b"# nothing\n", "is empty"),
        ("a.txt", b"1\nnan\n", r"NaN or infinite, the first at index \[1"),
        ("a.json", b"[1]", "ending '.json'"),
    ],
)
def test_bad_files_are_refused(tmp_path, load, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        load(path)
    assert name in str(caught.value)


def test_more_bad_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_labels(tmp_path / "absent.npy")
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read as numbers"):
        load_labels(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros((2, 2, 2)))
    with pytest.raises(InputError, match="no list or table"):
        load_labels(tmp_path / "b.npy")
    (tmp_path / "c.csv").write_text("0.5,0.6\n0,1\n")
    with pytest.raises(InputError, match=r"c\.csv: row 0.*sum 1\.1"):
        load_transition(tmp_path / "c.csv")
    (tmp_path / "d.csv").write_text("0.5,0.5\n")
    with pytest.raises(InputError, match="for 1 classes"):
        load_transition(tmp_path / "d.csv")


@pytest.mark.parametrize("size", [1, 17, 40])
def test_labels_of_all_samples_go_with_those_drawn(tmp_path, size):
    """Labels of a whole training set are in its order, also where some of it, or all, are drawn."""
    x, y = np.arange(40.0)[:, None] / 40, np.arange(40) % 3
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    other = (y + np.arange(40) % 2) % 3
    np.save(tmp_path / "labels.npy", other)
    given = dict(noise_kind="given", noisy_labels=str(tmp_path / "labels.npy"), train_size=size)
    settings = make_settings({"dataset": str(tmp_path / "mine.npz"), **given})
    for data in (noisy_data(settings), labelled_data(settings).data):
        number = np.rint(40 * data.x_train[:, 0]).astype(int)
        assert len(set(number)) == size
        assert np.array_equal(data.y_train, other[number]) and np.array_equal(data.wrong, number % 2 == 1)


def test_labels_of_some_other_number_of_samples(tmp_path):
    np.savez(tmp_path / "mine.npz", x=np.arange(40.0)[:, None], y=np.arange(40) % 3)
    np.save(tmp_path / "labels.npy", np.zeros(30, dtype=int))
    given = dict(noise_kind="given", noisy_labels=str(tmp_path / "labels.npy"))
    with pytest.raises(UsageError, match=r"the given labels have the shape \(30,\), but there are 8 training samples"):
        noisy_data(make_settings({"dataset": str(tmp_path / "mine.npz"), "train_size": 8, **given}))
