"""Folders that Hugging Face's library saved: images or columns of numbers, with splits or without."""

import datasets
import numpy as np
import pytest
from cleansed import NAMES, blobs, cleansed
from PIL import Image

from sgdphases.estimators.errors import DataWarning, InputError, UsageError
from sgdphases.sim.cleansing.data import labelled_data
from sgdphases.sim.data.datasets.hugging_face import read_hugging_face
from sgdphases.sim.data.datasets.registry import load_dataset
from sgdphases.sim.run.settings import make_settings


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()


def rows(n=60, seed=0):
    x, y = blobs(n, seed)
    kinds = datasets.Features(
        {
            "note": datasets.Value("string"),
            "a": datasets.Value("float32"),
            "bc": datasets.Array2D((1, 2), "float64"),
            "kind": datasets.ClassLabel(names=["cow", "bee", "ant", "unused"]),
        }
    )
    columns = {"note": [f"n{k}" for k in range(n)], "a": x[:, 0], "bc": x[:, None, 1:], "kind": 2 - y}
    return datasets.Dataset.from_dict(columns, features=kinds), x, y


def pictures(y, size=(6, 5)):
    rng = np.random.default_rng(0)
    made = [Image.fromarray(rng.integers(0, 60, (size[1], size[0]), np.uint8) + np.uint8(90 * k)) for k in y]
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": made, "label": NAMES[y]}, features=kinds), np.stack(made)[:, None]


def test_columns_of_numbers(tmp_path):
    saved, x, y = rows()
    saved.save_to_disk(tmp_path / "mine")
    with pytest.raises(InputError, match=r"'note' holds text such as 'n0'.*--drop-columns note"):
        load_dataset(str(tmp_path / "mine"), rng=np.random.default_rng(0))
    done = cleansed(tmp_path / "mine", tmp_path / "out", {"drop_columns": "note"})
    np.testing.assert_allclose(done.labelled.given, x, rtol=1e-6)
    assert (
        done.labelled.classes.tolist() == list(NAMES)
        and (done.labelled.classes[done.labelled.data.y_train] == NAMES[y]).all()
    )
    again = datasets.load_from_disk(done.cleaned)
    kept = np.flatnonzero(done.found.keep)
    assert done.cleaned.name == "cleaned" and again.features == saved.features
    assert again["note"] == [f"n{k}" for k in kept] and again["kind"] == [2 - y[k] for k in kept]
    labels = NAMES[y].copy()
    labels[0] = "cow"
    done.labelled.source.write(tmp_path / "new", np.arange(60), labels)
    new = datasets.load_from_disk(tmp_path / "new")
    assert new["kind"] == [0, *(2 - y[1:])] and new["bc"] == saved["bc"] and new.features == saved.features


def test_images_with_splits(tmp_path):
    y = np.arange(45) % 3
    train, pixels = pictures(y)
    both = datasets.DatasetDict({"train": train, "test": train.select(range(6)), "valid": train.select(range(3))})
    both.save_to_disk(tmp_path / "mine")
    with pytest.warns(DataWarning, match="the splits valid are left alone"):
        done = cleansed(tmp_path / "mine", tmp_path / "out")
    assert np.array_equal(done.labelled.given, pixels) and np.array_equal(done.labelled.given_test, pixels[:6])
    again = datasets.load_from_disk(done.cleaned)
    assert {name: len(split) for name, split in again.items()} == {"train": 41, "test": 6, "valid": 3}
    with pytest.warns(DataWarning):
        second = labelled_data(make_settings({"dataset": str(done.cleaned)}))
    assert np.array_equal(second.given, pixels[done.found.keep])
    labels = NAMES[y].copy()
    labels[3] = "cow"
    done.labelled.source.write(tmp_path / "new", np.array([3, 1]), labels[[3, 1]])
    new = datasets.load_from_disk(tmp_path / "new")["train"]
    assert new["label"] == ["cow", "bee"] and np.array_equal(np.asarray(new[0]["image"]), pixels[3, 0])


def test_damaged_images_are_named_by_row_or_skipped(tmp_path):
    y = np.arange(12) % 3
    good, _ = pictures(y)
    cells = [
        {"bytes": b"no image", "path": None} if k == 2 else each
        for k, each in enumerate(good.cast_column("image", datasets.Image(decode=False))["image"])
    ]
    broken = datasets.Dataset.from_dict({"image": cells, "label": NAMES[y]}, features=good.features)
    datasets.DatasetDict({"train": broken, "test": good}).save_to_disk(tmp_path / "mine")
    with pytest.raises(InputError, match=r"1 of 24 images cannot be read: row 2 \(no PNG or JPEG image\)"):
        read_hugging_face(tmp_path / "mine")
    with pytest.warns(DataWarning, match="1 damaged"):
        own = read_hugging_face(tmp_path / "mine", damaged="skip")
    assert own.y.tolist() == NAMES[np.delete(y, 2)].tolist() and len(own.x) == 11 and len(own.x_test) == 12
    assert own.source.places == [0, 1, *range(3, 12)]
    labels = own.y.copy()
    labels[2] = "bee"
    own.source.write(tmp_path / "new", np.array([2, 10]), labels[[2, 10]])
    assert datasets.load_from_disk(tmp_path / "new")["train"]["label"] == ["bee", NAMES[y[11]]]


def test_what_cannot_be_used_is_refused(tmp_path):
    saved, _, _ = rows(6)
    datasets.DatasetDict({"one": saved, "two": saved}).save_to_disk(tmp_path / "splits")
    with pytest.raises(UsageError, match="splits one, two and none called train"):
        read_hugging_face(tmp_path / "splits")
    images, _ = pictures(np.arange(6) % 3)
    images.add_column("width", [1] * 6).save_to_disk(tmp_path / "more")
    with pytest.raises(InputError, match="beside the images of 'image' there are the columns width"):
        read_hugging_face(tmp_path / "more")
    assert read_hugging_face(tmp_path / "more", drop_columns="width", size=8).x.shape == (6, 1, 8, 8)
    saved.save_to_disk(tmp_path / "plain")
    with pytest.raises(UsageError, match="size=8 has no effect"):
        read_hugging_face(tmp_path / "plain", drop_columns="note", size=8)
    unlabelled = {"x": [1.0, 2.0, 4.0], "label": [0, -1, 1]}
    kinds = datasets.Features({"x": datasets.Value("float64"), "label": datasets.ClassLabel(names=["a", "b"])})
    datasets.Dataset.from_dict(unlabelled, features=kinds).save_to_disk(tmp_path / "unlabelled")
    with pytest.raises(InputError, match="are none of its 2 classes, the first in row 1"):
        read_hugging_face(tmp_path / "unlabelled")
