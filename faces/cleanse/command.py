"""`sgdphases cleanse`: wrong labels in a data set. Arguments in, tables and paths out."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sgdphases.estimators.errors import UsageError
from sgdphases.faces.options import (
    DATA_HELP,
    DataOptions,
    DropColumns,
    Flag,
    LabelColumn,
    absolute_paths,
    data_options,
    one_value,
    refuse_inside,
    takes_settings,
)
from sgdphases.faces.terminal import console, interrupts, print_table, stage_progress, stoppable

WITHOUT_EFFECT = (
    "alignment_batches", "loss", "sample_losses", "sharp_directions", "spectra", "spectrum_parameters", "with_theory",
    "wrong_labels",
)  # fmt: skip
PROBES = 40
HELPS = {
    "checkpoints": Flag("How often losses are recorded, log-spaced along the run.", "INTEGER", str(PROBES)),
    "epochs": Flag("Passes over the training set.", "INTEGER", "100, or 10,000 steps; network image: 25, or 2,000"),
    "network": Flag(
        "mlp, cnn or resnet; image, a recipe that learns photographs; or auto: image for colour images and any larger "
        "than 28x28, otherwise mlp.",
        default="auto",
    ),
    "augment": Flag(
        "How the network image moves images at random: shifts, shifts+mirror, or none.",
        default="shifts+mirror for colour, shifts for grey",
    ),
    "learning_rate": Flag("Step size of SGD.", "NUMBER", "0.1; network image: 0.05, its peak"),
    "batch_size": Flag("Samples in a minibatch.", "INTEGER", "50; network image: 64"),
    "standardize": Flag(
        "Mean 0 and variance 1 for every feature: always, never, or auto, where a file has values beyond -1 to 1."
    ),
}
"""Where the help differs from that of `run`."""


def _fewer_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The command without the flags of settings that have no effect on it."""

    def run(**given: Any) -> None:
        command(**given, **dict.fromkeys(WITHOUT_EFFECT))

    known = inspect.signature(command).parameters.values()
    kept = [parameter for parameter in known if parameter.name not in WITHOUT_EFFECT]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(kept)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in kept}
    return run


@_fewer_flags
@partial(takes_settings, helps=HELPS)
def cleanse(
    dataset: Annotated[
        str,
        typer.Argument(
            help=DATA_HELP,
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help=r"Folder; an unfinished one is continued. \[default: cleansed/DATASET-001, …]", show_default=False
        ),
    ] = None,
    mixture: Annotated[str, typer.Option(help="Fitted to log-odds, log-loss, or loss.")] = "log-odds",
    per_class: Annotated[bool, typer.Option("--per-class", help="Fit each class by itself.")] = False,
    known_fraction: Annotated[
        float | None,
        typer.Option(help="Share of wrong labels, where it is known: so many are flagged.", show_default=False),
    ] = None,
    label_column: LabelColumn = None,
    drop_columns: DropColumns = None,
    option: DataOptions = None,
    *,
    values: dict[str, Any],
) -> None:
    """Find wrong labels by the order in which they are learnt, and write the data without them.

    Trains on all labels and records the loss of every sample. Flags for label noise corrupt labels, to try it out.
    """
    given = {name: one_value(name, text) for name, text in values.items()}
    given_options = data_options(option, label_column, drop_columns)
    options = {name: several[-1] for name, several in given_options.items()}
    if given.get("network") == "auto":
        del given["network"]
    base = {"checkpoints": PROBES, **given, "dataset": dataset}
    if options:
        base["dataset_options"] = options

    from sgdphases.estimators.cleansing.mixture import SCALES
    from sgdphases.estimators.cleansing.wrong_labels import check_known_fraction
    from sgdphases.sim.cleansing.folder import CleansingFolder, claim_cleansing
    from sgdphases.sim.run.settings import IMAGE, make_settings

    kinds = [kind for kind in SCALES if kind != "score"]
    if mixture not in kinds:
        raise UsageError(f"--mixture {mixture}: choose one of {', '.join(kinds)}.")
    settings = make_settings(absolute_paths(base))
    refuse_inside(settings.dataset, out)
    fitted: dict[str, Any] = {"kind": mixture, "per_class": per_class, "known_fraction": known_fraction}
    check_known_fraction(**fitted)
    with console.status("loading data"):
        labelled, settings = labelled_and_settings(settings)
    if "network" not in given and settings.network == IMAGE:
        console.print(f"images are learnt by the recipe (network image, augment {settings.augment})", soft_wrap=True)
    if out is not None:
        CleansingFolder(out).check(settings, fitted)
    _check_trainable(settings, labelled)
    with claim_cleansing(out, settings, fitted) as claimed:
        folder = CleansingFolder(claimed.path)
        folder.start(settings, fitted)
        _run(folder, settings, labelled, fitted)


def labelled_and_settings(settings: Any) -> tuple[Any, Any]:
    """The data, and the settings with network, augmentation and epochs chosen for them where they are not given.

    Raises
    ------
    UsageError
        For settings that make no sense together, or with these data.
    InputError
        For data that cannot be used.
    """
    from sgdphases.sim.cleansing.data import labelled_data
    from sgdphases.sim.cleansing.sample_losses import enough_epochs
    from sgdphases.sim.recipe.choose import check_no_augment, recipe_settings, takes_recipe

    labelled = labelled_data(settings)
    data = labelled.data
    if takes_recipe(settings, data.input_shape):
        chosen = recipe_settings(settings, data.input_shape, data.n_samples)
        if chosen.network != settings.network and labelled.given.dtype != "uint8":
            labelled = labelled_data(chosen)  # whose features may have been standardised for the perceptron
        return labelled, chosen
    check_no_augment(settings)
    if "epochs" in settings.model_fields_set:
        return labelled, settings
    epochs = enough_epochs(data.n_samples, settings.batch_size)
    return labelled, settings.model_copy(update={"epochs": epochs})


def _check_trainable(settings: Any, labelled: Any) -> None:
    """Build the network once before anything is written: what does not fit is refused here."""
    from sgdphases.sim.cleansing.sample_losses import trainer
    from sgdphases.sim.run.settings import IMAGE

    if settings.network == IMAGE:
        from sgdphases.sim.cleansing.cleanse_images import probe_epochs
        from sgdphases.sim.recipe.learner import ImageLearner

        probe_epochs(settings)
        ImageLearner(settings, labelled.data.x_train, labelled.data.y_train, labelled.data.n_classes)
        return
    trainer(settings, labelled.data.x_train, labelled.data.y_train, labelled.data.n_classes)


def _run(folder: Any, settings: Any, labelled: Any, fitted: dict[str, Any]) -> None:
    """Find, write and show; Ctrl-C ends in how to continue."""
    from sgdphases.faces.cleanse.page import most_suspect, suspect_rows, verdict_lines, write_cleansing_report
    from sgdphases.faces.review.page import write_review
    from sgdphases.sim.cleansing.cleanse import cleanse as find

    data = labelled.data
    with stoppable(f"Continue with the same command and --out {folder.path}"):
        with interrupts() as pressed, stage_progress() as show:

            def report(what: str, step: int, last: int) -> None:
                show(what, step, last)
                if pressed:
                    raise KeyboardInterrupt

            found = find(
                settings, data.x_train, data.y_train, data.n_classes, checkpoint=folder.watch, show=report, **fitted
            )
        cleaned = folder.write(labelled, found)
        with console.status("drawing"):
            write_cleansing_report(folder, labelled, found)
            write_review(folder, labelled, found, most_suspect(found))
    for line in verdict_lines(labelled, found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    heading, rows = suspect_rows(labelled, found)
    print_table(heading, rows[:10])
    written = {"labels": folder.labels, "cleaned": cleaned, "review": folder.review, "report": folder.report}
    for name, path in written.items():
        console.print(f"{name}: {path}", markup=False, highlight=False, soft_wrap=True)
