"""The data sets by name, their options, and one way to load any of them."""

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sgdphases.estimators.errors import UsageError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.checks import check_count, suggestion
from sgdphases.sim.data.datasets.cifar import load_cifar10
from sgdphases.sim.data.datasets.digits import load_digits
from sgdphases.sim.data.datasets.forms import FORMS, KINDS, is_path, own_form
from sgdphases.sim.data.datasets.gaussian_mixture import make_gaussian_mixture
from sgdphases.sim.data.datasets.hugging_face import load_hugging_face
from sgdphases.sim.data.datasets.image_files import load_images
from sgdphases.sim.data.datasets.mnist import load_mnist
from sgdphases.sim.data.datasets.npz import load_npz
from sgdphases.sim.data.datasets.tables import load_table
from sgdphases.sim.data.datasets.teacher_student import make_teacher_student

DATASETS: dict[str, Callable[..., Dataset]] = {
    "gaussian-mixture": make_gaussian_mixture,
    "teacher-student": make_teacher_student,
    "digits": load_digits,
    "mnist": load_mnist,
    "cifar10": load_cifar10,
    "npz": load_npz,
    "table": load_table,
    "images": load_images,
    "hugging-face": load_hugging_face,
}
"""Name -> function. A function's keyword arguments are the data set's options, but for those every data set
shares; one with ``train_size`` and ``test_size`` generates its samples, the others load all they have."""

_SHARED = ("rng", "train_size", "test_size", "data_dir")


@dataclass(frozen=True)
class DatasetOption:
    """One option of a data set; `choices` is empty where any value of the type of `default` may do."""

    name: str
    default: object
    required: bool
    choices: tuple[str, ...]

    def __str__(self) -> str:
        return self.name if self.required else f"{self.name}={_text(self.default)}"


@dataclass(frozen=True)
class DatasetDescription:
    """What a data set is and takes.

    Attributes
    ----------
    name, summary : str
    options : tuple of DatasetOption
    takes_folder : bool
        Whether ``data_dir`` means anything to it.
    train_size, test_size : int or None
        How many samples it generates by default; None where it loads what is on disk.
    """

    name: str
    summary: str
    options: tuple[DatasetOption, ...]
    takes_folder: bool
    train_size: int | None
    test_size: int | None


def describe_datasets() -> tuple[DatasetDescription, ...]:
    """Name, one-line summary and options of every data set, in the order of `DATASETS`."""
    return tuple(_describe(name) for name in DATASETS)


def load_dataset(
    name: str,
    *,
    options: Mapping[str, object] | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    data_dir: str | Path | None = None,
    rng: np.random.Generator,
) -> Dataset:
    """Load or generate a data set by name.

    Parameters
    ----------
    name : str
        A name in `DATASETS`, or the path of your own data: a ``.npz``, ``.csv``, ``.tsv`` or ``.parquet`` file, a
        folder with a sub-folder of images for each class, or a folder that Hugging Face's library saved.
    options : mapping, optional
        The data set's own options. Text is converted where it can be: ``"true"``, ``"50"``.
    train_size, test_size : int, optional
        How many samples to generate; or, of a data set on disk, how many to draw at random without
        replacement (all, in the file's order, by default).
    data_dir : path, optional
        Folder of the files, for the data sets that have any.
    rng : numpy.random.Generator
        Every random choice is drawn from it.

    Returns
    -------
    Dataset
        Checked: finite samples, labels 0..K-1, one label a sample, nothing empty.

    Raises
    ------
    UsageError
        Unknown name or option, an impossible value, more samples asked for than there are, or a folder
        given needlessly or missing.
    InputError
        Bad files or data.
    """
    settings = dict(options or {})
    if name not in DATASETS and is_path(name):
        if "path" in settings:
            raise UsageError(f"the data set is already {name}; leave out the option path")
        name, settings["path"] = own_form(Path(name).expanduser()), name
    if name not in DATASETS:
        raise UsageError(
            f"no data set is called {name!r}; choose one of {', '.join(DATASETS)}, or the path of your own data: "
            f"{KINDS}{suggestion(name, DATASETS)}"
        )
    arguments = converted_options(name, settings)
    parameters = inspect.signature(DATASETS[name]).parameters
    sizes = {"train_size": train_size, "test_size": test_size}
    sizes = {key: check_count(key, size) for key, size in sizes.items() if size is not None}
    if data_dir is not None and "data_dir" not in parameters:
        remedy = "give their path as the data set" if name in FORMS else "leave it out"
        raise UsageError(
            f"data set {name} reads no data folder, but --data-dir (data_dir) is {str(data_dir)!r}; {remedy}"
        )
    shared = {"rng": rng, "data_dir": data_dir, **sizes}
    data = DATASETS[name](**arguments, **{key: value for key, value in shared.items() if key in parameters})
    return data if "train_size" in parameters else draw_subset(data, rng, **sizes)[0]


def _describe(name: str) -> DatasetDescription:
    function = DATASETS[name]
    parameters = inspect.signature(function).parameters
    own = [parameter for key, parameter in parameters.items() if key not in _SHARED]
    sizes = [parameters[key].default if key in parameters else None for key in ("train_size", "test_size")]
    summary = (inspect.getdoc(function) or "").split("\n")[0]
    return DatasetDescription(name, summary, tuple(_option(each) for each in own), "data_dir" in parameters, *sizes)


def _option(parameter: inspect.Parameter) -> DatasetOption:
    required = parameter.default is inspect.Parameter.empty
    is_choice = typing.get_origin(parameter.annotation) is typing.Literal
    choices = typing.get_args(parameter.annotation) if is_choice else ()
    return DatasetOption(parameter.name, None if required else parameter.default, required, choices)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def converted_options(name: str, options: Mapping[str, object]) -> dict[str, object]:
    from pydantic import TypeAdapter, ValidationError

    known = {option.name: option for option in _describe(name).options}
    listing = f"its options are {', '.join(map(str, known.values()))}" if known else "it has no options"
    parameters = inspect.signature(DATASETS[name]).parameters
    converted: dict[str, object] = {}
    for key, value in options.items():
        if key not in known:
            raise UsageError(f"data set {name} has no option {key!r}; {listing}{suggestion(key, known)}")
        annotation = parameters[key].annotation
        try:
            if isinstance(value, bool) and annotation is not bool:
                raise TypeError("a number or a word is needed, not a truth value")
            converted[key] = TypeAdapter(annotation).validate_python(value)
        except (TypeError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise UsageError(
                f"option {key}={value!r} of data set {name} cannot be used ({reason}); "
                + (
                    f"give another, or leave it out for {_text(known[key].default)}"
                    if not known[key].required
                    else "give another"
                )
            ) from None
    missing = [key for key, option in known.items() if option.required and key not in converted]
    if missing:
        raise UsageError(f"data set {name} needs the option {', '.join(missing)}; {listing}")
    return converted


def draw_subset(
    data: Dataset, rng: np.random.Generator, train_size: int | None = None, test_size: int | None = None
) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Random training and test samples of `data`, without replacement, and the numbers of both.

    Raises
    ------
    UsageError
        If there are fewer than asked for.
    """
    kept, tested = np.arange(data.n_samples), np.arange(len(data.x_test))
    if train_size is not None:
        drawn = _draw(data.n_samples, train_size, "train_size", data.name, rng)
        kept = drawn[:train_size]
        data = replace(
            data,
            drawn=drawn,
            x_train=data.x_train[kept],
            y_train=data.y_train[kept],
            y_clean=None if data.y_clean is None else data.y_clean[kept],
            assigned=None if data.assigned is None else data.assigned[kept],
        )
    if test_size is not None:
        tested = _draw(len(data.x_test), test_size, "test_size", data.name, rng)[:test_size]
        data = replace(data, x_test=data.x_test[tested], y_test=data.y_test[tested])
    return data, kept, tested


def _draw(available: int, size: int, setting: str, name: str, rng: np.random.Generator) -> np.ndarray:
    if size > available:
        raise UsageError(
            f"{setting}={size} asks for more than the {available} {setting.split('_')[0]} samples that "
            f"{name} has; give at most {available}, or leave it out for all"
        )
    return rng.permutation(available)
