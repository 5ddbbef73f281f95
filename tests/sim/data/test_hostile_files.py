"""Every reader against truncated, flipped, oversized and hostile files: a clear error, nothing run, nothing changed."""

import gzip
import io
import json
import os
import pickle
import random
import resource
import shutil
import struct
import zipfile

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from command_line import call
from PIL import Image
from runs import SMALL, start

from sgdphases.estimators.errors import InputError
from sgdphases.sim.cleansing.decisions import read_decisions
from sgdphases.sim.cleansing.folder import CleansingFolder
from sgdphases.sim.data.datasets.cifar import load_cifar10
from sgdphases.sim.data.datasets.hugging_face import load_hugging_face
from sgdphases.sim.data.datasets.idx import read_idx
from sgdphases.sim.data.datasets.image_files import load_images
from sgdphases.sim.data.datasets.npz import load_npz
from sgdphases.sim.data.datasets.tables import load_table
from sgdphases.sim.data.label_noise.add import load_labels, load_transition
from sgdphases.sim.run.checkpoint import load_checkpoint
from sgdphases.sim.run.settings import make_settings, read_settings
from sgdphases.sim.run.training import advance
from sgdphases.sim.run.trajectory import last_epoch, read_trajectory
from sgdphases.sim.sweep.folder import SweepFolder, start_sweep
from sgdphases.sim.sweep.member import from_folder
from sgdphases.sim.sweep.plan import plan_sweep
from sgdphases.sim.sweep.results import ResultsWriter, places, read_ended

pytestmark = pytest.mark.filterwarnings("ignore::sgdphases.estimators.errors.DataWarning")
ROUNDS = 60  # for each reader; SGDPHASES_FUZZ=1000 tries more
DECIDED = [("keep", "ant"), ("suggestion", "bee"), ("other", "cow"), ("drop", ""), ("skip", "")]
TURNED = bytes.fromhex("4578696600004d4d002a000000080001011200030000000100060000000000")  # Exif: orientation 6
SPECIAL = (0, 1, 0x7F, 0x80, 0xFF, ord("["), ord('"'), ord("9"), ord("\n"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """One sound file of each kind, by name, and what reads it."""
    place = tmp_path_factory.mktemp("sound")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 12)
    np.savez(place / "own.npz", x=rng.normal(size=(12, 3)), y=y)
    np.savez_compressed(place / "packed.npz", x_train=np.zeros((12, 3)), y_train=y, y_clean=y)
    (place / "idx").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 3, 4, 4) + rng.bytes(48))
    (place / "idx.gz").write_bytes(gzip.compress((place / "idx").read_bytes()))
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        batch = {b"data": np.frombuffer(rng.bytes(3072 * 2), np.uint8).reshape(2, 3072), b"labels": [1, 9]}
        (place / name).write_bytes(pickle.dumps(batch, protocol=2))
    np.save(place / "labels.npy", y)
    (place / "labels.csv").write_text("0,1,2\n3,4,5\n")
    np.save(place / "matrix.npy", np.full((4, 4), 0.25))
    experiment, folder = start(place / "run", epochs=2, checkpoints=4)
    for _ in advance(experiment, folder):
        pass
    plan = plan_sweep({**SMALL, "hidden": [8]}, {"seed": [0, 1], "dataset_options.dimension": [3, 4]})
    start_sweep(SweepFolder(place / "sweep"), plan)
    SweepFolder(place / "sweep").write_failures({"seed=0": "diverged"})
    ended = from_folder(folder)
    with ResultsWriter(place / "sweep" / "results.bin") as results:
        for name in ("seed=0", "seed=1"):
            results.append(name, ended)
    CleansingFolder(place / "cleansing").start(make_settings(SMALL), {"kind": "log-odds", "per_class": False})
    write_own_forms(place, rng)
    return place


def write_own_forms(place, rng):
    """Images, tables and a saved data set, small."""
    for name, mode, options in (
        ("ant/1.png", "RGBA", {}),
        ("ant/2.jpg", "RGB", {"exif": TURNED}),
        ("bee/3.png", "I;16", {}),
    ):
        (place / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (9, 12, 4), np.uint8)
        pixels = pixels[..., 0].astype(np.uint16) if mode == "I;16" else pixels[..., : len(mode)]
        Image.fromarray(pixels).save(place / "photos" / name, **options)
    files = [f"photos/{name}" for name in ("ant/1.png", "ant/2.jpg", "bee/3.png")]
    (place / "list.csv").write_text("file,label\n" + "".join(f"{file},{file[7:10]}\n" for file in files))
    lines = [f'{k},{k / 7:.4f},"{"ab"[k % 2]} ""x"", y"\n' for k in range(12)]
    (place / "table.csv").write_text("size,weight,label\n" + "".join(lines))
    table = {"size": np.arange(12), "weight": rng.normal(size=12), "label": ["a", "b"] * 6}
    pyarrow.parquet.write_table(pyarrow.table(table), place / "table.parquet")
    images = {"image": [str(place / file) for file in files] * 2, "label": [0, 1, 1] * 2}
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(images, features=kinds).save_to_disk(str(place / "saved"))
    marked = [f"{k},file {k},ant,bee,{kind},{label},{'ab' * 8}\n" for k, (kind, label) in enumerate(DECIDED)]
    (place / "decisions.csv").write_text("index,file,given,suggested,decision,label,cleansing\n" + "".join(marked))


READERS = {
    "own.npz": load_npz,
    "packed.npz": load_npz,
    "idx": lambda path: read_idx(path, 3),
    "idx.gz": lambda path: read_idx(path, 3),
    "data_batch_3": lambda path: load_cifar10(path.parent),
    "labels.npy": load_labels,
    "labels.csv": load_labels,
    "matrix.npy": load_transition,
    "run/config.toml": lambda path: make_settings(read_settings(path)),
    "run/checkpoint.npz": load_checkpoint,
    "run/trajectory.nc": lambda path: (read_trajectory(path), last_epoch(path)),
    "sweep/sweep.toml": lambda path: SweepFolder(path.parent).read_plan(),
    "sweep/results.bin": lambda path: [read_ended(path, name) for name in places(path)],
    "sweep/failures.json": lambda path: SweepFolder(path.parent).read_failures(),
    "cleansing/options.json": lambda path: CleansingFolder(path.parent).read_options(),
    "photos/ant/1.png": lambda path: load_images(path.parents[1]),
    "photos/ant/2.jpg": lambda path: load_images(path.parents[1]),
    "photos/bee/3.png": lambda path: load_images(path.parents[1]),
    "list.csv": load_images,
    "table.csv": load_table,
    "table.parquet": load_table,
    "saved/data-00000-of-00001.arrow": lambda path: load_hugging_face(path.parent),
    "saved/dataset_info.json": lambda path: load_hugging_face(path.parent),
    "saved/state.json": lambda path: load_hugging_face(path.parent),
    "decisions.csv": read_decisions,
}
REFUSED_SOMETIMES = [name for name in READERS if name not in ("labels.csv", "cleansing/options.json")]


def damaged(whole, seed):
    """A file cut short, with some bytes changed, doubled, or with a part of it repeated."""
    rng, content = random.Random(seed), bytearray(whole)
    kind = rng.randrange(5)
    if kind == 0:
        return bytes(content[: rng.randrange(len(content))])
    if kind == 1:
        return bytes(content + content[: rng.randrange(len(content)) + 1])
    if kind == 2:
        first, length = rng.randrange(len(content)), rng.randrange(1, 40)
        return bytes(content[:first] + content[first + length :])
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        place = rng.randrange(rng.choice((min(200, len(content)), len(content))))
        content[place] = rng.choice((content[place] ^ 1 << rng.randrange(8), *SPECIAL))
    return bytes(content)


def contents(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(sound, tmp_path, name):
    place = tmp_path / "copy"
    shutil.copytree(sound, place)
    path, whole = place / name, (sound / name).read_bytes()
    READERS[name](path)
    before, refused = contents(place), 0
    rounds = int(os.environ.get("SGDPHASES_FUZZ", ROUNDS))
    for seed in range(rounds):
        content = damaged(whole, seed)
        path.write_bytes(content)
        try:
            READERS[name](path)
        except InputError as error:
            refused += 1
            assert str(error), seed
        after = contents(place)
        assert after.pop(path) == content and after == {other: kept for other, kept in before.items() if other != path}
    assert refused >= rounds // 5 or name not in REFUSED_SOMETIMES


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def npy_header(shape, dtype="<f8"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (64 - (len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npz(**members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return out.getvalue()


def real(array):
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


Y = real(np.arange(12) % 3)
HOSTILE = {
    "labels.npy": [npy_header((2**40,)), npy_header((-1,)), npy_header((2**33,)) + bytes(100), real(np.array([Bomb()])),
                   npy_header((1,), "|O") + pickle.dumps(Bomb()), npy_header("((((((1,),),),),),)"),
                   b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{" * 100],
    "matrix.npy": [npy_header((2**20, 2**20)), npy_header((2**62, 2**62)), npy_header((0, 2**62))],
    "own.npz": [npz(x=npy_header((2**40, 3)), y=Y), npz(x=npy_header((2**31, 2**31)) + bytes(1000), y=Y),
                npz(x=real(np.array([Bomb()] * 12)), y=Y), npz(x=Y, y=real(np.array([Bomb()] * 12))),
                npz(x=npy_header((2**29, 8)), y=Y), npz(x=b"", y=Y), npz(x=b"PK", y=b"\x93NUMPY\x09\x09")],
    "run/checkpoint.npz": [npz(step=npy_header((2**45,)), weights=Y, names=Y, table=Y, fingerprint=Y),
                           npz(step=real(np.array(Bomb(), object))), npz(settings=real(np.array("[" * 9000)))],
    "idx": [struct.pack(">4B3I", 0, 0, 8, 3, *lengths) for lengths in ((2**32 - 1,) * 3, (2**31, 1, 1))],
    "data_batch_3": [pickle.dumps(Bomb(), protocol=protocol) for protocol in range(5)]
    + [b"\x80\x02]r\xff\xff\xff\x7f.", b"\x80\x02Np2147483647\n.", b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
       b"\x80\x02\x8a\xff" + b"\xff" * 300 + b".", b"(" * 5000 + b"l" * 5000 + b".",
       b"cos\nsystem\n(S'mkdir exploded'\ntR."],
    "run/config.toml": [b"a = " + b"[" * 50_000, b"epochs = " + b"9" * 9_000, b"hidden = [" + b"1," * 10_000 + b"0]",
                        b"dataset = 3", b"[dataset]\na = 1", b"#" * (17 << 20), b'dataset = "digits"\nseed = 1e400'],
    "sweep/sweep.toml": [b"axes = 3\nbase = 4", b"[axes]\nseed = 5\n[base]", b"[axes]\nseed = [[1], {a = 1}]\n[base]",
                         b'[axes]\nhidden = [[1e999]]\n[base]\ndataset = "digits"', b"x = " + b"[" * 50_000,
                         b'[axes]\nseed = [1, 2]\n[base]\ndataset = "digits"\ndataset_options = [1]',
                         b" " * (17 << 20)],
    "sweep/failures.json": [b"[1]", b"3", b'{"a": 1}', b"[" * 200_000, b"null", b'{"a": ' + b"9" * 9_000 + b"}"],
    "cleansing/options.json": [b"[" * 200_000, b'{"kind": ', b"\xff", b"[" + b"1" * 9_000 + b"]"],
    "run/trajectory.nc": [b"\x89HDF\r\n\x1a\n" + bytes(500), b"CDF\x01" + b"\xff" * 500, b"CDF\x05" + b"\x7f" * 500],
}  # fmt: skip
CASES = [(name, number) for name, files in HOSTILE.items() for number in range(len(files))]


@pytest.mark.parametrize(("name", "number"), CASES, ids=lambda value: str(value))
def test_hostile_files_are_refused(sound, tmp_path, monkeypatch, name, number):
    place = tmp_path / "copy"
    shutil.copytree(sound, place)
    monkeypatch.chdir(tmp_path)
    (place / name).write_bytes(HOSTILE[name][number])
    before, used = contents(place), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as caught:
        READERS[name](place / name)
    assert len(str(caught.value)) < 3_000
    assert contents(place) == before and not (tmp_path / "exploded").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 400_000  # kilobytes


def test_a_file_that_unpacks_to_more_than_it_announces_or_than_memory_is_refused(tmp_path, monkeypatch):
    bomb = npz(x=npy_header((2**19, 8)) + bytes(2**25), y=Y)  # 32 MB in 33 kB
    (tmp_path / "bomb.npz").write_bytes(bomb)
    (tmp_path / "idx.gz").write_bytes(gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 2**20, 5, 8) + bytes(2**25)))
    monkeypatch.setattr("sgdphases.sim.storage.arrays.memory_bytes", lambda: 2**24)
    with pytest.raises(InputError, match="memory"):
        load_npz(tmp_path / "bomb.npz")
    with pytest.raises(InputError, match="memory"):
        read_idx(tmp_path / "idx.gz", 3)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no such device")
def test_endless_files_come_to_an_end():
    with pytest.raises(InputError, match="longer than 16 MiB"):
        read_settings("/dev/zero")


@pytest.mark.parametrize("name", ["run/trajectory.nc", "sweep/sweep.toml"])
def test_the_command_line_says_so_without_a_traceback(sound, tmp_path, name):
    place = tmp_path / "copy"
    shutil.copytree(sound, place)
    (place / name).write_bytes(HOSTILE[name][0])
    done = call("report", (place / name).parent)
    assert done.returncode == 1 and done.stderr.startswith("Error: ") and "Traceback" not in done.stderr


def test_sound_files_are_json_and_toml(sound):
    assert json.loads((sound / "sweep" / "failures.json").read_text()) == {"seed=0": "diverged"}
