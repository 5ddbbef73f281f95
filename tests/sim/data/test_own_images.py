"""Folders of the user's own images: every kind of image read as what it shows, what is damaged or left out named."""

import csv
import io
import warnings

import numpy as np
import pytest
from cleansed import NAMES, cleansed, write_images
from PIL import Image

from sgdphases.estimators.errors import DataWarning, InputError, UsageError
from sgdphases.sim.cleansing.data import labelled_data
from sgdphases.sim.data.datasets.image_files import load_images, read_images
from sgdphases.sim.data.datasets.pictures import MOST_PIXELS, Picture, decode
from sgdphases.sim.data.datasets.registry import load_dataset
from sgdphases.sim.run.settings import make_settings

STEP = np.arange(6, dtype=np.uint8)[:, None] * 20 + np.arange(5, dtype=np.uint8) * 3  # (6, 5), like no turn of itself


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return Picture(out.getvalue(), "it")


def pixels(*pictures, **options):
    return decode(pictures, "here", **options).pixels


def grey(array, mode="L"):
    return Image.fromarray(array).convert(mode) if mode != "L" else Image.fromarray(array)


def test_grey_images_have_one_channel_whatever_their_mode():
    for mode in ("L", "RGB", "RGBA", "LA"):
        assert np.array_equal(pixels(encoded(grey(STEP, mode)))[0], STEP[None]), mode
    both = pixels(encoded(grey(STEP)), encoded(Image.fromarray(np.dstack([STEP, STEP, 0 * STEP]))))
    assert both.shape == (2, 3, 6, 5) and np.array_equal(both[0], np.stack([STEP] * 3))
    assert np.array_equal(both[1], np.stack([STEP, STEP, 0 * STEP]))
    assert np.array_equal(pixels(encoded(grey(STEP > 60)))[0, 0] > 0, STEP > 60)


def test_palettes_and_transparency_are_seen_as_a_person_sees_them():
    colours = Image.fromarray(np.dstack([STEP, STEP // 2, 255 - STEP]))
    assert np.array_equal(
        pixels(encoded(colours.convert("P", palette=Image.Palette.ADAPTIVE, colors=256))), pixels(encoded(colours))
    )
    clear = np.dstack([STEP, STEP, STEP, np.where(STEP > 60, 255, 0).astype(np.uint8)])
    assert np.array_equal(pixels(encoded(Image.fromarray(clear)))[0, 0], np.where(STEP > 60, STEP, 255))
    marked = Image.fromarray(STEP)
    assert pixels(encoded(marked, transparency=int(STEP[0, 0])))[0, 0, 0, 0] == 255


@pytest.mark.parametrize("bits", [12, 16])
def test_sixteen_bits_become_eight_by_one_factor_for_all(bits):
    deep = (STEP.astype(np.uint16) + 100) << (bits - 8)
    dark = deep // 2
    found = pixels(encoded(Image.fromarray(deep)), encoded(Image.fromarray(dark)))
    assert np.array_equal(found[0, 0], STEP + 100) and np.array_equal(found[1, 0], (STEP + 100) // 2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright(orientation):
    turns = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
             6: np.rot90, 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, 3)}  # fmt: skip
    mark = Image.Exif()
    mark[0x0112] = orientation
    lying = Image.fromarray(np.ascontiguousarray(turns[orientation](STEP)))
    assert np.array_equal(pixels(encoded(lying, exif=mark))[0, 0], STEP)


def test_sizes_that_differ_or_are_large_become_one():
    small, other, large = (encoded(grey(np.full(shape, 90, np.uint8))) for shape in ((6, 5), (7, 5), (70, 65)))
    assert pixels(small, small).shape == (2, 1, 6, 5)
    assert pixels(small, other).shape == (2, 1, 32, 32) and (pixels(small, other) == 90).all()
    assert pixels(large, large).shape == (2, 1, 32, 32)
    assert pixels(small, other, size=8).shape == (2, 1, 8, 8)
    half = np.zeros((100, 200), np.uint8)
    half[:, 100:] = 255
    left, right = np.split(pixels(encoded(grey(half)))[0, 0], 2, axis=1)  # squeezed, not cut
    assert left[:, :-1].max() == 0 and right[:, 1:].min() == 255
    jpeg = pixels(encoded(grey(np.repeat(np.repeat(half, 10, 0), 10, 1)), "JPEG"))[0, 0].astype(int)
    assert np.abs(jpeg - pixels(encoded(grey(half)))[0, 0]).mean() < 3


def test_an_image_that_unpacks_to_too_much_is_refused():
    side = int(MOST_PIXELS**0.5) + 10
    bomb = encoded(Image.new("1", (side, side)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="more than 89 million"):
            decode([bomb], "here")


def test_a_folder_is_read_class_by_class_and_what_is_left_out_is_named(tmp_path):
    labels = ["bee", "ant", "bee", "ant"]
    write_images(tmp_path / "photos", labels)
    folder = tmp_path / "photos"
    (folder / "ant" / "deeper").mkdir()
    (folder / "ant" / "001.png").rename(folder / "ant" / "deeper" / "z.PNG")
    for odd in (".DS_Store", "README.txt", "ant/.hidden.png", "ant/notes.txt", "bee/film.gif"):
        (folder / odd).write_bytes(b"odd")
    (folder / "empty").mkdir()
    with pytest.warns(DataWarning, match="6 left out.*no PNG or JPEG.*'ant/.hidden.png'.* and 1 more"):
        own = read_images(folder)
    assert own.source.files == ("ant/003.png", "ant/deeper/z.PNG", "bee/000.png", "bee/002.png")
    assert own.y.tolist() == ["ant", "ant", "bee", "bee"] and own.x.shape == (4, 3, 5, 6) and own.x.dtype == np.uint8
    with pytest.warns(DataWarning):
        data = load_dataset(str(folder), options={"test_fraction": 0.25}, rng=np.random.default_rng(0))
    assert data.class_names == ("ant", "bee") and len(data.x_train) == 3 and 0 <= data.x_train.max() <= 1


def test_train_and_test_are_sets_unless_they_hold_images(tmp_path):
    write_images(tmp_path / "sets" / "train", ["ant", "bee"] * 3)
    write_images(tmp_path / "sets" / "test", ["bee", "ant"])
    write_images(tmp_path / "sets" / "val", ["bee", "ant"])
    with pytest.warns(DataWarning, match="1 left out.*'val'"):
        own = read_images(tmp_path / "sets")
    assert own.y.tolist() == ["ant"] * 3 + ["bee"] * 3 and own.y_test.tolist() == ["ant", "bee"]
    assert own.source.files[0] == "train/ant/000.png"
    write_images(tmp_path / "stations", ["train", "bus", "test"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sorted(read_images(tmp_path / "stations").y) == ["bus", "test", "train"]


def test_damaged_images_are_named_or_skipped(tmp_path):
    write_images(tmp_path / "photos", ["ant", "bee"] * 10)
    whole = (tmp_path / "photos" / "ant" / "000.png").read_bytes()
    for number in range(0, 14, 2):
        (tmp_path / "photos" / "ant" / f"{number:03d}.png").write_bytes(whole[: 40 if number else 0])
    with pytest.raises(InputError, match=r"7 of 20 images cannot be read: ant/000.png \(.* and 2 more; .*damaged=skip"):
        load_images(tmp_path / "photos")
    with pytest.warns(DataWarning, match="7 damaged images are left out"):
        own = read_images(tmp_path / "photos", damaged="skip")
    assert len(own.x) == len(own.y) == len(own.source.files) == 13 and "ant/014.png" in own.source.files
    for broken in (tmp_path / "photos").rglob("*.png"):
        broken.write_bytes(b"")
    with pytest.raises(InputError, match="20 of 20"):
        load_images(tmp_path / "photos", damaged="skip")


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda place: None, InputError, "does not exist"),
        (lambda place: place.mkdir(), UsageError, "no data set that is known"),
        (lambda place: write_images(place, ["ant"] * 3), UsageError, "all images in .* lie in one sub-folder, 'ant'"),
        (lambda place: write_images(place / "photos", ["ant", "bee"]), UsageError, "Did you mean .*photos/photos"),
        (lambda place: place.write_bytes(b"x"), InputError, "no file of a kind that is known"),
        (
            lambda place: (place.mkdir(), (place / "train-images-idx3-ubyte").touch()),
            UsageError,
            "files of mnist: load",
        ),
    ],
)
def test_folders_that_are_no_data_set_are_refused(tmp_path, make, error, named):
    make(tmp_path / "photos")
    with pytest.raises(error, match=named):
        load_dataset(str(tmp_path / "photos"), rng=np.random.default_rng(0))


def test_a_name_that_is_no_utf_8_is_refused(tmp_path):
    write_images(tmp_path / "photos", ["ant", "bee"])
    try:
        (tmp_path / "photos" / "ant" / "000.png").rename(tmp_path / "photos" / "ant" / "\udcff.png")
    except OSError:
        pytest.skip("this file system knows no such name")
    with pytest.raises(InputError, match=r"\\xff.png.* is no name in UTF-8; rename it"):
        load_images(tmp_path / "photos")


HOSTILE = [
    "<script>alert(1)</script>".replace("/", "_"),
    '"quoted", with comma',
    "=1+1",
    "line\nbreak",
    "שלום",
    "🐝" * 20,
]


def test_cleansing_lists_the_files_kept_and_the_list_is_data_again(tmp_path):
    labels = [HOSTILE[k % 6] for k in range(48)]
    write_images(tmp_path / "photos", labels, size=(6, 6))
    done = cleansed(tmp_path / "photos", tmp_path / "out")
    assert done.cleaned.name == "cleaned.csv"
    with open(done.folder.labels, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kept = [row["file"].lstrip("'") for row in rows if row["kept"] == "1"]
    again = labelled_data(make_settings({"dataset": str(done.cleaned)}))
    assert len(kept) == 43 and [again.source.files[k][-len(name) :] for k, name in enumerate(kept)] == kept
    index = np.flatnonzero(done.found.keep)
    assert np.array_equal(again.given, done.labelled.given[index]) and again.classes.tolist() == sorted(HOSTILE)
    assert np.array_equal(again.data.y_train, done.labelled.data.y_train[index])
    once_more = cleansed(done.cleaned, tmp_path / "again")
    assert once_more.cleaned.name == "cleaned.csv" and len(once_more.labelled.given) == 43
    done.labelled.source.write(tmp_path / "copy", index, done.labelled.classes[done.labelled.data.y_train[index]])
    assert np.array_equal(read_images(tmp_path / "copy").x, done.labelled.given[index])


def test_a_test_set_stays_in_the_list(tmp_path):
    write_images(tmp_path / "sets" / "train", [*NAMES] * 10)
    write_images(tmp_path / "sets" / "test", [*NAMES])
    done = cleansed(tmp_path / "sets", tmp_path / "out", train_size=25, test_size=2)
    again = labelled_data(make_settings({"dataset": str(done.cleaned)}))
    assert np.array_equal(again.given, done.labelled.given[done.found.keep]) and len(again.given_test) == 3
    done.labelled.source.write(tmp_path / "copy", np.arange(30), np.repeat(NAMES, 10))
    assert sorted(each.name for each in (tmp_path / "copy").iterdir()) == ["test", "train"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("file,label\nmissing.png,ant\n", "row 2 names missing.png, where no file is"),
        ("file,label\n,ant\n", "row 2 lacks its file"),
        ("file,label,set\na.png,ant,valid\n", "must say train or test"),
        ("file,label,set\na.png,ant,test\n", "no images for training"),
    ],
)
def test_lists_that_are_wrong_are_refused(tmp_path, text, named):
    Image.fromarray(STEP).save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=named):
        load_dataset(str(tmp_path / "list.csv"), rng=np.random.default_rng(0))
