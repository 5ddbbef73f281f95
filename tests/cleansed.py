"""Small data of one's own in every form, and a cleansing of them without figures, for several test files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from sgdphases.faces.cleanse.page import most_suspect
from sgdphases.faces.review.page import write_review
from sgdphases.sim.cleansing.cleanse import Cleansing, cleanse
from sgdphases.sim.cleansing.data import LabelledData, labelled_data
from sgdphases.sim.cleansing.folder import CleansingFolder
from sgdphases.sim.run.settings import make_settings

QUICK = dict(hidden=(8,), epochs=12, checkpoints=6, batch_size=10, backend="numpy")
NAMES = np.array(["ant", "bee", "cow"])
TURNED = {2: 7, 3: 8, 7: 1, 5: 6, 6: 5}  # Patrini and others, 2017
EXCHANGED = {4: 9, 9: 4, 3: 5, 5: 3, 7: 1, 1: 7}


@dataclass
class Done:
    folder: CleansingFolder
    labelled: LabelledData
    found: Cleansing
    cleaned: Path


def blobs(n=60, seed=0):
    """Three clouds, features and right labels."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return np.round(3 * np.eye(3)[y] + 0.5 * rng.normal(size=(n, 3)), 3), y


def misread_digits(turned, share, seed=0):
    """Handwritten digits, what they are, and labels: a share of some classes is read as others."""
    x, y = load_digits(return_X_y=True)
    mistaken = np.random.default_rng(seed).random(len(y)) < share
    return x, y, np.where(mistaken, [turned.get(label, label) for label in y], y)


def write_images(folder: Path, labels, *, ending=".png", size=(6, 5), seed=0):
    """An image a label, in a sub-folder for each class; bright where the class says."""
    rng = np.random.default_rng(seed)
    classes = sorted(set(labels))
    for number, label in enumerate(labels):
        pixels = rng.integers(0, 60, (size[1], size[0], 3), np.uint8)
        pixels[classes.index(label) % size[1]] += 150
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / label / f"{number:03d}{ending}")


def cleansed(dataset: Path, out: Path, options: dict[str, Any] | None = None, **settings: Any) -> Done:
    """Cleanse data as the command does, but for report and figures."""
    values = {**QUICK, "dataset": str(dataset), "dataset_options": options or {}, **settings}
    chosen = make_settings(values)
    labelled = labelled_data(chosen)
    folder = CleansingFolder(out)
    folder.start(chosen, {})
    data = labelled.data
    found = cleanse(chosen, data.x_train, data.y_train, data.n_classes, known_fraction=0.1)
    cleaned = folder.write(labelled, found)
    write_review(folder, labelled, found, most_suspect(found))
    return Done(folder, labelled, found, cleaned)
