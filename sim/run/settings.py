"""Everything that fixes a run, as one frozen record, to and from TOML."""

import json
import platform
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.data.datasets.forms import is_path
from sgdphases.sim.storage.text import read_text

MOVABLE = ("data_dir", "transition_matrix", "noisy_labels", "device")
"""Settings that may change while a run is interrupted: where files are, and what computes."""
IMAGE = "image"
"""The network that cleansings learn images by: see `sgdphases.sim.recipe`. No plain SGD, and nothing for a run."""
LIBRARIES = ("sgdphases", "numpy", "scipy", "numba", "torch", "xarray")


class RunSettings(BaseModel):
    """Settings of one run. Two runs with equal settings, versions and machine end in the same bits.

    Attributes
    ----------
    dataset : str
        A name from ``sgdphases datasets``, or the path of one's own data.
    dataset_options : dict
        Keyword arguments of that data set, such as the ``label_column`` of a table.
    data_dir : str or None
        Where the files of mnist or cifar10 are.
    train_size, test_size : int or None
        Samples to generate, or to draw from the real ones; None takes the data set's own number.
    standardize : {"auto", "always", "never"}
        Whether every feature is given mean 0 and variance 1 over the training set. "auto": in a run, where the
        features of one's own data are too large or too small to be learnt from (see `sgdphases.sim.data.scaling`).
    noise_fraction : float
        The paper's rho, 0 to 1.
    noise_kind : str
        How labels are made wrong: see `sgdphases.sim.data.label_noise.add`.
    transition_matrix, noisy_labels : str or None
        Files for the noise kinds "transition" and "given".
    wrong_labels : {"assigned", "actual"}
        Which samples form the wrong population: all that were assigned a random label, as in the paper, or those
        whose label is really wrong. They differ only for noise that may hit the right label by chance.
    network : {"mlp", "cnn", "resnet", "image"}
        Fully connected, or, for images and the torch backend only, a small convolutional or a small residual network
        (see `sgdphases.sim.networks.images`). "image" is the recipe of cleansings for images (see
        `sgdphases.sim.recipe`): its BatchNorm and its schedule are no plain SGD, and runs refuse it.
    augment : {"auto", "none", "shifts", "shifts+mirror"}
        What the recipe does to images at random: shifts by up to an eighth of their side, and mirror images. "auto":
        both for colour images, shifts alone for grey ones, among which there may be digits or letters.
    hidden : tuple of int
        Units of each hidden layer of the network "mlp"; empty for a linear model. The others have layers of their own.
    activation : {"relu", "tanh", "erf"}
        Of whichever network.
    loss : {"auto", "cross-entropy", "squared"}
        "auto": cross-entropy for classes, squared for regression.
    learning_rate : float
        The paper's alpha, above 0.
    batch_size : int
        The paper's B.
    epochs : int
    seed : int
    backend, device, dtype : str
        Which backend trains and measures, and how; None leaves the choice to the backend. Networks that need the
        torch backend take it unless another is named.
    checkpoints : int
        Measurements along the run, log-spaced in steps, the first at the start and the last at the end.
    alignment_batches : int
        Minibatches drawn for each sampled alignment; 0 for none, otherwise at least 3.
    sharp_directions : int
        Leading Hessian eigenvectors found at each checkpoint, to record the sharpness and to split gradients into
        their part along them and the rest; 0 for none. One a class is a good number.
    with_theory : bool
        Whether to record, beside what is measured, what theory predicts for it: see `sgdphases.sim.run.theory_curves`.
    spectra : int
        Checkpoints, the first and the last among them, at which the spectrum of the noise matrix is measured; 0 for
        none, otherwise at least 2.
    spectrum_parameters : tuple of str
        Names or patterns of the parameters whose spectrum it is, such as ``layers.1.weight``; empty takes all.
    sample_losses : bool
        Whether to record the loss of every training sample at every checkpoint.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    dataset_options: dict[str, Any] = Field(default_factory=dict)
    data_dir: str | None = None
    train_size: int | None = Field(default=None, ge=1)
    test_size: int | None = Field(default=None, ge=1)
    standardize: Literal["auto", "always", "never"] = "auto"
    noise_fraction: float = Field(default=0.0, ge=0, le=1)
    noise_kind: str = "uniform"
    transition_matrix: str | None = None
    noisy_labels: str | None = None
    wrong_labels: Literal["assigned", "actual"] = "assigned"
    network: Literal["mlp", "cnn", "resnet", "image"] = "mlp"
    augment: Literal["auto", "none", "shifts", "shifts+mirror"] = "auto"
    hidden: tuple[int, ...] = (100, 100)
    activation: Literal["relu", "tanh", "erf"] = "relu"
    loss: Literal["auto", "cross-entropy", "squared"] = "auto"
    learning_rate: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    batch_size: int = Field(default=50, ge=1)
    epochs: int = Field(default=300, ge=1)
    seed: int = Field(default=0, ge=0)
    backend: str = "numba"
    device: str | None = None
    dtype: Literal["float32", "float64"] | None = None
    checkpoints: int = Field(default=60, ge=2)
    alignment_batches: int = Field(default=32, ge=0)
    sharp_directions: int = Field(default=0, ge=0)
    with_theory: bool = False
    spectra: int = Field(default=0, ge=0)
    spectrum_parameters: tuple[str, ...] = ()
    sample_losses: bool = False


def make_settings(values: dict[str, Any]) -> RunSettings:
    """Settings from plain values.

    Raises
    ------
    UsageError
        Naming every setting that is unknown, missing or out of range.
    """
    try:
        settings = RunSettings(**values)
    except ValidationError as error:
        raise UsageError("\n".join(_explain(problem) for problem in error.errors())) from None
    if any(units < 1 for units in settings.hidden):
        raise UsageError(f"hidden = {settings.hidden}: every hidden layer needs at least one unit.")
    if settings.alignment_batches in (1, 2):
        raise UsageError(
            f"alignment_batches = {settings.alignment_batches}: give 0 for none, or at least 3 for a standard error."
        )
    if settings.spectra == 1:
        raise UsageError("spectra = 1: give 0 for none, or at least 2, for the start and the end.")
    if settings.spectrum_parameters and not settings.spectra:
        raise UsageError(
            f"spectrum_parameters = {settings.spectrum_parameters} says whose spectrum to measure, but spectra = 0 "
            "asks for none: say how many with spectra."
        )
    return settings if settings.network == "mlp" else _with_torch(settings)


def _with_torch(settings: RunSettings) -> RunSettings:
    """Settings of a network that only PyTorch knows: its backend, unless another is named."""
    if "backend" in settings.model_fields_set and settings.backend != "torch":
        raise UsageError(
            f"backend = {settings.backend!r} knows fully connected networks only: leave it out, or choose torch, for "
            f"network = {settings.network!r}."
        )
    if settings.hidden != RunSettings.model_fields["hidden"].default:
        raise UsageError(
            f"hidden = {settings.hidden} has no effect on network = {settings.network!r}, which has layers of its own: "
            "leave it out, or choose network = 'mlp'."
        )
    return settings.model_copy(update={"backend": "torch"})


def check_plain_sgd(settings: RunSettings) -> None:
    """Raise a UsageError for settings that only cleansings have a meaning for."""
    if settings.network == IMAGE:
        raise UsageError(
            f"network = '{IMAGE}' is for cleansings only, since its BatchNorm and its schedule are no plain SGD: "
            "choose network = 'cnn' or 'resnet'."
        )
    if settings.augment != "auto":
        raise UsageError(
            f"augment = {settings.augment!r} is for cleansings with network = '{IMAGE}' only: leave it out."
        )


def check_batch_size(settings: RunSettings, n_samples: int) -> None:
    """Raise a UsageError for minibatches larger than the training set."""
    if settings.batch_size > n_samples:
        raise UsageError(
            f"batch_size = {settings.batch_size} exceeds the {n_samples} training samples: choose at most that."
        )


def check_cross_entropy(settings: RunSettings) -> None:
    """Raise a UsageError for another loss than the one that wrong labels are found by."""
    if settings.loss not in ("auto", "cross-entropy"):
        raise UsageError(f"loss = {settings.loss!r}: wrong labels are found by their cross-entropy; leave it out.")


def read_settings(path: Path) -> dict[str, Any]:
    """Plain values from a TOML file, without the versions a run has noted in it.

    Raises
    ------
    InputError
        If the file is missing or no TOML.
    """
    try:
        text = read_text(Path(path))
    except (OSError, ValueError) as error:
        raise InputError(f"settings file {path} cannot be read: {error}") from None
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"settings file {path} is not valid TOML: {error}") from None
    values.pop("versions", None)
    return values


def settings_toml(settings: RunSettings) -> str:
    """The settings as TOML, with the versions they ran under."""
    values = {name: value for name, value in settings.model_dump().items() if value is not None}
    options = values.pop("dataset_options")
    values |= {name: list(values[name]) for name in ("hidden", "spectrum_parameters")}
    return tomli_w.dumps({**values, "dataset_options": options, "versions": _versions()})


def fixed_settings(settings: RunSettings) -> str:
    """What a run must be resumed with, as JSON: all but `MOVABLE` settings, and the path of data whose hash is kept."""
    kept = {name: value for name, value in settings.model_dump(mode="json").items() if name not in MOVABLE}
    if is_path(settings.dataset):
        del kept["dataset"]
    return json.dumps(kept)


def check_fixed(stored: str, settings: RunSettings, config: Path, again: str) -> None:
    """Hold settings against those that a checkpoint was made with.

    Parameters
    ----------
    stored : str
        Of `fixed_settings`; settings that it lacks, of an older version, are not compared.
    settings : RunSettings
    config : Path
        Where they come from, for the message.
    again : str
        How to start again with the present ones, for the message.

    Raises
    ------
    UsageError
        Naming every setting that differs, and both values.
    """
    before = json.loads(stored) if stored else {}
    now = json.loads(fixed_settings(settings))
    changed = [name for name in now if name in before and before[name] != now[name]]
    if changed:
        listed = ", ".join(f"{name} = {now[name]!r} (begun with {before[name]!r})" for name in changed)
        raise UsageError(
            f"{config} has been changed since the run began: {listed}. Put back what it was begun with, or {again}."
        )


@cache  # of a sweep's members, each of which notes them
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _explain(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"][:1])
    if problem["type"] == "missing":
        return f"{name} is not set: give it as an argument or in the settings file."
    if problem["type"] == "extra_forbidden":
        return f"{name} is no setting: known are {', '.join(RunSettings.model_fields)}."
    text = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{name} = {problem['input']!r}: {text}."
