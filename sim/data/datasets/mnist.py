"""MNIST, from its own files or fetched once from OpenML."""

from pathlib import Path

import numpy as np

from sgdphases.estimators.errors import InputError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.checks import check_dataset, check_labels
from sgdphases.sim.data.datasets.folders import check_folder
from sgdphases.sim.data.datasets.idx import read_idx

_SUBFOLDERS = ("", "MNIST/raw")
_TRAIN_SIZE = 60_000
_NAMES = tuple(str(digit) for digit in range(10))


def load_mnist(data_dir: str | Path | None = None, *, fetch: bool = False) -> Dataset:
    """MNIST handwritten digits of 28x28 pixels, 60,000 for training and 10,000 for the test.

    Any data set in the same files, such as Fashion-MNIST, loads as well. Source: LeCun, Bottou, Bengio &
    Haffner 1998.

    Parameters
    ----------
    data_dir : path, optional
        Folder of the four files ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``,
        ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte`` (also written ``.idx3-ubyte``), each plain
        or gzipped; or the folder in which torchvision keeps them as ``MNIST/raw``. With `fetch`, the folder
        for the downloaded copy.
    fetch : bool
        Download the data from OpenML (``mnist_784``) with scikit-learn, which keeps it for the next time.

    Returns
    -------
    Dataset
        ``x`` float32 of shape (N, 1, 28, 28), pixels in [0, 1]; ten classes; all labels taken as right.

    Raises
    ------
    UsageError
        Neither an existing folder nor ``fetch`` is given.
    InputError
        A file is missing, damaged, of the wrong size or does not fit the others; or the download failed.
    """
    if fetch:
        images, labels = _fetch(data_dir)
        x_train, x_test = images[:_TRAIN_SIZE], images[_TRAIN_SIZE:]
        y_train, y_test = labels[:_TRAIN_SIZE], labels[_TRAIN_SIZE:]
    else:
        folder = check_folder(data_dir, "mnist", ", or have it downloaded with the option fetch=true")
        x_train, y_train = _read_pair(folder, "train")
        x_test, y_test = _read_pair(folder, "t10k")
    data = Dataset(
        "mnist",
        _scale(x_train),
        y_train,
        _scale(x_test),
        y_test,
        n_classes=10,
        y_clean=y_train,
        class_names=_NAMES,
    )
    return check_dataset(data, "mnist")


def _scale(pixels: np.ndarray) -> np.ndarray:
    return np.divide(pixels, 255, dtype=np.float32).reshape(-1, 1, 28, 28)


def _find(folder: Path, stem: str, dimensions: int) -> Path:
    names = [f"{stem}{dot}idx{dimensions}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    for subfolder in _SUBFOLDERS:
        for name in names:
            if (path := folder / subfolder / name).is_file():
                return path
    raise InputError(
        f"mnist: found no file {names[0]} or {names[1]} in {folder} (nor in its MNIST/raw); put the four "
        "MNIST files there, give another folder with --data-dir, or use the option fetch=true"
    )


def _read_pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    image_path, label_path = _find(folder, f"{part}-images", 3), _find(folder, f"{part}-labels", 1)
    images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
    if images.shape[1:] != (28, 28):
        raise InputError(
            f"{image_path} holds images of {images.shape[1]}x{images.shape[2]} pixels, expected 28x28; put "
            "the MNIST files there, or save other images as .npz"
        )
    if len(images) == 0:
        raise InputError(f"{image_path} holds no images; download or copy the file again")
    if len(images) != len(labels):
        raise InputError(
            f"{image_path} holds {len(images)} images but {label_path} {len(labels)} labels; take both files "
            "from the same source"
        )
    check_labels(labels, 10, str(label_path))
    return images, labels.astype(np.int64)


def _fetch(data_dir: str | Path | None) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import fetch_openml

    home = None if data_dir is None else str(Path(data_dir).expanduser())
    try:
        images, labels = fetch_openml("mnist_784", version=1, return_X_y=True, as_frame=False, data_home=home)
        images, labels = np.asarray(images), np.asarray(labels).astype(np.int64)
    except (OSError, ValueError) as error:
        raise InputError(
            f"mnist could not be fetched from OpenML ({type(error).__name__}: {error}); check the "
            "connection, or give the folder of the four MNIST files with --data-dir"
        ) from error
    if images.shape != (len(labels), 784) or len(labels) <= _TRAIN_SIZE or not 0 <= images.min() <= images.max() <= 255:
        raise InputError(
            f"mnist as fetched from OpenML has the shape {images.shape} and {len(labels)} labels, expected "
            "(70000, 784) with pixels 0..255; remove the copy in scikit-learn's data folder and try again"
        )
    return images, labels
