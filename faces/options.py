"""The settings of a run as flags, each with one value for `run`, or several for `sweep`."""

import inspect
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sgdphases.estimators.errors import UsageError
from sgdphases.sim.data.datasets.forms import is_path

DATA_HELP = (
    "A name from `sgdphases datasets`, or your own data: a .npz, .csv, .tsv or .parquet file, a folder of images by "
    "class, a Hugging Face data set saved to disk, or a folder of MNIST or CIFAR-10 files."
)
DataName = Annotated[str | None, typer.Argument(help=DATA_HELP, show_default=False)]
SettingsFile = Annotated[Path | None, typer.Option(help="Settings in TOML; flags win.", show_default=False)]
PresetName = Annotated[
    str | None, typer.Option(help="Settings by name: see `sgdphases presets`; flags win.", show_default=False)
]
LabelColumn = Annotated[
    str | None,
    typer.Option(help=r"Column of a table that holds the labels. \[default: label]", show_default=False),
]
DropColumns = Annotated[
    list[str] | None,
    typer.Option(help="Columns of a table that are no features, with commas between.", show_default=False),
]
DataOptions = Annotated[
    list[str] | None,
    typer.Option("-o", "--option", help="NAME=VALUE for the data set, as often as needed.", show_default=False),
]


@dataclass(frozen=True)
class Flag:
    """How a setting reads on the command line: its help, and what stands for its value there."""

    text: str
    metavar: str = "TEXT"
    default: str | None = None  # as the help shows it; the tests compare it with that of the setting
    hidden: bool = False  # from the help of a command that has no use for it


FLAGS = {
    "data_dir": Flag("Where the files of mnist or cifar10 are."),
    "train_size": Flag("Training samples.", "INTEGER"),
    "test_size": Flag("Test samples.", "INTEGER"),
    "standardize": Flag(
        "Mean 0 and variance 1 for every feature: always, never, or auto, where it is needed.", default="auto"
    ),
    "noise_fraction": Flag("Share of samples given noisy labels, 0 to 1.", "NUMBER", default="0.0"),
    "noise_kind": Flag(
        "uniform, uniform-other, pair-flip, input-dependent, transition, given, redraw or sign-flip.", default="uniform"
    ),
    "transition_matrix": Flag("K x K matrix, for noise kind transition."),
    "noisy_labels": Flag("Labels of the training set, for noise kind given."),
    "wrong_labels": Flag("Wrong population: labels assigned at random, or actual wrong ones.", default="assigned"),
    "network": Flag("mlp, cnn or resnet; the last two are for images, and need PyTorch.", default="mlp"),
    "augment": Flag("How the network image moves images: shifts, shifts+mirror, or none.", hidden=True, default="auto"),
    "hidden": Flag("Units of each hidden layer, or none.", default="100,100"),
    "activation": Flag("relu, tanh or erf.", default="relu"),
    "loss": Flag("auto, cross-entropy or squared.", default="auto"),
    "learning_rate": Flag("Step size of SGD.", "NUMBER", default="0.1"),
    "batch_size": Flag("Samples in a minibatch.", "INTEGER", default="50"),
    "epochs": Flag("Passes over the training set.", "INTEGER", default="300"),
    "seed": Flag("Of every random draw.", "INTEGER", default="0"),
    "backend": Flag("numpy, numba, torch, or another that is registered.", default="numba"),
    "device": Flag("cpu, cuda, mps, … for the torch backend."),
    "dtype": Flag("float32 or float64."),
    "checkpoints": Flag("Measurements, log-spaced along the run.", "INTEGER", default="60"),
    "alignment_batches": Flag("Minibatches drawn for each sampled alignment, 0 for none.", "INTEGER", default="32"),
    "sharp_directions": Flag("Hessian eigenvectors to split gradients by, 0 for none.", "INTEGER", default="0"),
    "spectra": Flag("Checkpoints at which the noise spectrum is measured, 0 for none.", "INTEGER", default="0"),
    "spectrum_parameters": Flag("Its parameters: names or patterns with commas, such as layers.1.weight."),
    "sample_losses": Flag("Record the loss of every training sample.", "BOOLEAN"),
    "with_theory": Flag("Record and draw what theory predicts, too.", "BOOLEAN"),
}
PATHS = ("data_dir", "transition_matrix", "noisy_labels")


def takes_settings(
    command: Callable[..., None], *, several: bool = False, helps: Mapping[str, Flag] | None = None
) -> Callable[..., None]:
    """A command for typer that has a flag for every setting, and hands those given to ``values``.

    Parameters
    ----------
    command : callable
        With a parameter ``values``, and others that typer understands.
    several : bool
        Whether a flag may be given more than once; ``values`` then holds lists, even of one.
    helps : mapping, optional
        Settings that mean something else to this command, or have another default there: what its help says of them.
    """
    flags = {**FLAGS, **(helps or {})}
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "values"]
    parameters = [*own, *(_parameter(name, flag, several) for name, flag in flags.items())]

    def run(**given: Any) -> None:
        values = {name: given.pop(name) for name in FLAGS}
        command(**given, values={name: value for name, value in values.items() if value not in (None, [])})

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _parameter(name: str, flag: Flag, several: bool) -> inspect.Parameter:
    """A flag that is None unless given, so that a settings file can fill it; the help shows the default."""
    default = FLAGS[name].default if flag.default is None else flag.default
    shown = "" if default is None or flag.metavar == "BOOLEAN" else rf" \[default: {default}]"
    dashed = "--" + name.replace("_", "-")
    kind: Any
    if flag.metavar == "BOOLEAN" and not several:
        kind = Annotated[bool | None, typer.Option(dashed, help=flag.text, show_default=False)]
    else:
        option = typer.Option(
            dashed, help=flag.text + shown, show_default=False, metavar=flag.metavar, hidden=flag.hidden
        )
        kind = Annotated[list[str] | None if several else str | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def one_value(name: str, text: Any) -> Any:
    """What a flag's text means; the settings refuse what does not fit, flags and file alike."""
    if not isinstance(text, str):
        return text
    if name == "hidden":
        return _layers(text)
    if name == "spectrum_parameters":
        return tuple(part.strip() for part in text.split(",") if part.strip())
    kind = FLAGS[name].metavar
    if kind == "BOOLEAN":
        return {"true": True, "false": False}.get(text.lower(), text)
    return _number(text) if kind in ("INTEGER", "NUMBER") else text


def several_values(name: str, texts: list[str]) -> tuple[Any, ...]:
    """The values of an axis: one flag each, or ``FIRST:LAST:COUNT`` (``:log`` for even ratios), or numbers with commas.

    Raises
    ------
    UsageError
        If a range does not make sense.
    """
    kind = FLAGS[name].metavar
    if kind not in ("INTEGER", "NUMBER"):
        return tuple(one_value(name, text) for text in texts)
    parts = [part for text in texts for part in text.split(",")]
    found = [value for part in parts for value in (_range(name, part) if ":" in part else [_number(part)])]
    return tuple(found)


def data_options(
    option: list[str] | None, label_column: str | None, drop_columns: list[str] | None
) -> dict[str, list[Any]]:
    """Options of the data set, every name with its values, from ``-o NAME=VALUE`` and from flags of their own."""
    found = option_values(option or [])
    own = {"label_column": label_column, "drop_columns": drop_columns or None}
    for name, value in own.items():
        if value is not None and name in found:
            raise UsageError(f"--{name.replace('_', '-')} and -o {name}: give one of them.")
    return {**found, **{name: [value] for name, value in own.items() if value is not None}}


def option_values(texts: list[str]) -> dict[str, list[Any]]:
    """NAME=VALUE as often as given: every name with its values, in order."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, value = _name_and_value(text)
        found.setdefault(name, []).append(value)
    return found


def absolute_paths(values: dict[str, Any]) -> dict[str, Any]:
    """Absolute paths, so that runs resume from any folder; a folder as data set becomes the data set it holds."""
    values = _folder_as_data_set(values)
    names = [name for name in PATHS if isinstance(values.get(name), str)]
    if isinstance(values["dataset"], str) and is_path(values["dataset"]):
        names.append("dataset")
    return {**values, **{name: os.path.abspath(os.path.expanduser(values[name])) for name in names}}


def refuse_inside(dataset: str, out: Path | None) -> None:
    """Raise a UsageError where results would lie in the folder of the data, and be taken for a class next time."""
    place = Path.cwd() if out is None else out.absolute()
    if os.path.isdir(dataset) and place.resolve().is_relative_to(Path(dataset).resolve()):
        what = "the results would lie" if out is None else f"--out {out} lies"
        raise UsageError(f"{what} in the folder of the data, {dataset}: choose a place outside with --out.")


def _folder_as_data_set(values: dict[str, Any]) -> dict[str, Any]:
    """Where a folder stands in the place of a data set, the one whose files it holds, and the folder."""
    if not isinstance(values["dataset"], str) or not os.path.isdir(values["dataset"]):
        return values
    from sgdphases.sim.data.datasets.folders import data_set_in
    from sgdphases.sim.data.datasets.registry import DATASETS

    folder = Path(values["dataset"])
    if values["dataset"] in DATASETS:
        return values
    name = data_set_in(folder)
    if name is None:
        return values
    if values.get("data_dir") is not None:
        raise UsageError(f"{folder} holds the files of {name} already: leave --data-dir out.")
    return {**values, "dataset": name, "data_dir": str(folder)}


def _range(name: str, text: str) -> list[Any]:
    flag = "--" + name.replace("_", "-")
    first, last, *more = text.split(":")
    log = more[1:] == ["log"]
    try:
        start, stop, count = float(first), float(last), int(more[0])
    except (ValueError, IndexError):
        count = 0
    if count < 2 or (more[1:] and not log):
        raise UsageError(f"{flag} {text}: write FIRST:LAST:COUNT, such as 0:0.9:10, and :log for even ratios.")
    if log and not (start > 0 and stop > 0):
        raise UsageError(f"{flag} {text}: even ratios need two positive ends.")
    shares = [k / (count - 1) for k in range(count)]
    spaced = [start * (stop / start) ** share if log else start + (stop - start) * share for share in shares]
    if FLAGS[name].metavar == "INTEGER":
        return [round(value) for value in spaced]
    return [float(f"{value:.10g}") for value in spaced]  # 0.3, not 0.30000000000000004


def _number(text: str) -> Any:
    """The number a text holds, or the text itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _layers(text: str) -> tuple[int, ...]:
    """Units of each hidden layer from "100,100"; "none" and "" mean a linear model."""
    if text.strip().lower() in ("", "none"):
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--hidden {text!r}: give whole numbers with commas between, such as 100,100, or none."
        ) from None


def _name_and_value(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value read as TOML where it is such, and as plain text otherwise."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--option {text!r}: write NAME=VALUE, such as separation=3.")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value
