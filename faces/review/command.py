"""`sgdphases apply`: the decisions of a review carried out. Arguments in, a line and a path out."""

from pathlib import Path
from typing import Annotated

import typer

from sgdphases.estimators.errors import UsageError
from sgdphases.faces.options import refuse_inside
from sgdphases.faces.terminal import console

SAID = {
    "relabelled": "relabelled",
    "dropped": "dropped",
    "kept": "kept after a look",
    "left": "left as given",
    "removed": "removed as `cleanse` found",
}


def apply(
    decisions: Annotated[Path, typer.Argument(help="decisions.csv, as review.html saved it.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File or folder to write, in the form of the data that were cleansed.")],
    cleansing: Annotated[
        Path | None,
        typer.Option(
            help=r"Folder of the cleansing. \[default: beside the decisions, here, or in cleansed/]",
            show_default=False,
        ),
    ] = None,
    others: Annotated[
        str,
        typer.Option(
            metavar="keep|cleanse",
            help="Samples without a decision: as given, or removed where `cleanse` flagged them.",
        ),
    ] = "keep",
) -> None:
    """Write the data as decided in a review: labels changed, samples dropped. The files given stay as they are."""
    from sgdphases.sim.cleansing.cleaned import ending, write_labelled
    from sgdphases.sim.cleansing.data import labelled_data
    from sgdphases.sim.cleansing.decisions import read_decisions, reviewed, reviewed_folder
    from sgdphases.sim.run.settings import make_settings, read_settings

    mark, found = read_decisions(decisions)
    folder = reviewed_folder(decisions, mark, cleansing)
    settings = make_settings(read_settings(folder.config))
    refuse_inside(settings.dataset, out)
    if out.exists():
        raise UsageError(f"--out {out} is there already: choose another name.")
    with console.status("loading data"):
        labelled = labelled_data(settings)
    wanted = ending(labelled)
    if out.suffix.lower() != wanted and (wanted or out.suffix.lower() in (".csv", ".npz", ".tsv", ".parquet")):
        form = f"a {wanted} file" if wanted else "a folder"
        raise UsageError(f"--out {out}: what is written is {form}, as the data were; choose such a name.")
    result = reviewed(folder, labelled, found, others, decisions)
    write_labelled(labelled, out, result.index, result.labels)
    said = ", ".join(f"{result.counts[name]:,} {text}" for name, text in SAID.items() if result.counts[name])
    console.print(f"{said}; {len(result.index):,} samples written", highlight=False, soft_wrap=True)
    console.print(f"data: {out}", markup=False, highlight=False, soft_wrap=True)
