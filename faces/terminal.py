"""What a run looks like on the terminal: progress, tables, Ctrl-C."""

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from sgdphases.estimators.errors import DataWarning

console = Console()
INTERRUPTED = 130  # what a shell reports for a program stopped by Ctrl-C
WIDE = 72  # characters of a terminal, from which on there is room for a bar
MOST_ROWS = 40  # of a sweep's table on the terminal


def show_data_warnings() -> None:
    """Let every `DataWarning` be one line on the stream of errors, without the place in the code."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *more: Any, **named: Any) -> None:
        if issubclass(category, DataWarning):
            Console(stderr=True).print(f"Warning: {message}", style="yellow", markup=False, soft_wrap=True)
        else:
            before(message, category, *more, **named)

    warnings.simplefilter("always", DataWarning)
    warnings.showwarning = show


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Remember Ctrl-C: raised while a kernel is compiled, the interrupt itself may be lost."""
    pressed: list[int] = []

    def remember(number: int, frame: Any) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stoppable(how_to_go_on: str) -> Iterator[None]:
    """Ctrl-C ends in a line that says how to continue, and in the exit code a shell knows for it."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"\nStopped. {how_to_go_on}", markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def progress(n_steps: int) -> Iterator[Any]:
    """A bar with the newest order parameters, as many as fit; on a plain stream, a line at every tenth of the way."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    if not console.is_terminal:
        tenths = [0]

        def line(state: Any) -> None:
            if state.step * 10 // state.n_steps >= tenths[0]:
                tenths[0] = state.step * 10 // state.n_steps + 1
                console.print(_status(state), markup=False, highlight=False)

        yield line
        return
    bar_and_time = [BarColumn(bar_width=24), TimeRemainingColumn()] if console.width >= WIDE else []
    text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
    columns = [*bar_and_time[:1], TaskProgressColumn(), *bar_and_time[1:], text]
    room = console.width - (39 if bar_and_time else 6)  # beside the bar, the share and the time
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=n_steps)
        yield lambda state: bar.update(task, completed=state.step, description=_status(state, room))


def _status(state: Any, room: int = 200) -> str:
    """Epoch and newest order parameters, as many as fit into so many characters."""
    from sgdphases.faces.run.page import number

    shown = {"L": "loss", "ε_te": "test_error", "A": "activity", "R_cw": "alignment_cw", "σ_λ²": "projection_variance"}
    known = [
        f"{symbol} {number(state.latest[name])}"
        for symbol, name in shown.items()
        if state.latest[name] == state.latest[name]
    ]
    parts = [f"epoch {state.epoch:.4g}", *known]
    while len(parts) > 1 and len("  ".join(parts)) > room:
        parts.pop()
    return "  ".join(parts)


def show_report(folder: Any, *, first: bool = False) -> None:
    """Write the report; print what happened, a picture and a table of the phases, and where the report is.

    See `write_report` for ``first``.
    """
    from sgdphases.faces.run.page import (
        meanings_line,
        phase_rows,
        reading_lines,
        signature_lines,
        summary_line,
        write_report,
    )
    from sgdphases.faces.run.terminal_picture import picture_lines

    with console.status("drawing"):
        trajectory, phases, shown = write_report(folder, first=first)
    console.print(summary_line(trajectory, phases), markup=False, highlight=False, soft_wrap=True)
    if console.encoding.lower().startswith("utf"):  # there is no other way to write bars
        for line in picture_lines(trajectory, phases, console.width):
            console.print(line, markup=False, highlight=False, no_wrap=True)
    heading, rows = phase_rows(trajectory, phases)
    print_table(heading, rows)
    for line in [*([meanings_line(trajectory)] if rows else []), *reading_lines(phases), *signature_lines(shown)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {folder.report}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def sweep_progress(folder: Any, plan: Any, job: Any = None) -> Iterator[Any]:
    """A bar that counts members as they end; on a plain stream, a line each. Failures are said at once."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sgdphases.sim.sweep.member import TRAINING

    members = plan.members()
    before = sum((job or TRAINING).is_finished(folder.member(member), member.settings) for member in members)
    if before:
        console.print(f"{before} of {len(members)} members ended before", highlight=False)
    bar_column = BarColumn(bar_width=24 if console.width >= WIDE else 8)
    columns = [bar_column, MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(members), completed=before)

        def show(outcome: Any) -> None:
            bar.advance(task)
            if outcome.failure is not None:
                bar.console.print(f"{outcome.member.name} failed: {outcome.failure}", markup=False, style="red")
            elif not console.is_terminal:
                console.print(f"{outcome.member.name} ended", markup=False, highlight=False)

        yield show


@contextmanager
def stage_progress() -> Iterator[Any]:
    """A bar a stage of some work; on a plain stream, a line when a stage begins."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar_and_time = [BarColumn(bar_width=24), TimeRemainingColumn()] if console.width >= WIDE else []
    columns = [TextColumn("{task.description}"), *bar_and_time[:1], TaskProgressColumn(), *bar_and_time[1:]]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def show(stage: str, step: int, last: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=last)
                if not console.is_terminal:
                    console.print(stage, markup=False, highlight=False)
            bar.update(tasks[stage], completed=step)

        yield show


def show_sweep(folder: Any, plan: Any) -> None:
    """Write a sweep's report and print its table and where the report is."""
    from sgdphases.faces.sweep.page import failed_members, legend, sweep_rows, write_sweep_report

    with console.status("drawing"):
        sweep = write_sweep_report(folder, plan)
    heading, rows = sweep_rows(sweep, ranges=False)
    print_table(heading, rows[:MOST_ROWS], repeated=heading.index("runs"))
    if len(rows) > MOST_ROWS:
        console.print(f"… {len(rows) - MOST_ROWS} rows more in the report")
    console.print(legend(sweep), markup=False, highlight=False, soft_wrap=True)
    for reason, count in failed_members(sweep).items():
        console.print(f"{count} failed: {reason}", markup=False, style="red")
    console.print(f"data: {folder.dataset}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {folder.report}", markup=False, highlight=False, soft_wrap=True)


def print_table(heading: list[str], rows: list[list[str]], repeated: int = 1) -> None:
    """A plain table, nothing wrapped or cut: columns for which there is no room follow in a table of their own.

    Parameters
    ----------
    heading : list of str
    rows : list of list of str
    repeated : int
        Leading columns, those that say what a row is about, which each of these tables begins with.
    """
    if not rows:
        return
    cells = [heading, *rows]
    widths = [max(cell_len(row[column]) for row in cells) + 1 for column in range(len(heading))]
    names, left = list(range(repeated)), list(range(repeated, len(heading)))
    while True:
        taken: list[int] = []
        while left and (not taken or sum(widths[column] for column in (*names, *taken, left[0])) <= console.width):
            taken.append(left.pop(0))
        table = Table(box=None, padding=(0, 1, 0, 0))
        for column in (*names, *taken):
            table.add_column(heading[column], no_wrap=True, min_width=widths[column] - 1)
        for row in rows:
            table.add_row(*(Text(row[column]) for column in (*names, *taken)))
        console.print(table, crop=False, width=max(console.width, sum(widths[column] for column in (*names, *taken))))
        if not left:
            return
        console.print()


def show_checks(results: dict[str, Any], what: str = "backend") -> None:
    """A table of checked identities for each backend, or whatever they were checked for."""
    for name, checks in results.items():
        table = Table(title=f"{what} {name}", title_justify="left", box=None, padding=(0, 1, 0, 0))
        table.add_column("identity")
        for title in ("left", "right", "residual", "allowed"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for check in checks:
            verdict = "[green]holds[/green]" if check.holds else "[bold red]VIOLATED[/bold red]"
            values = (check.left, check.right, check.residual, check.allowed)
            table.add_row(check.identity, *(f"{value:.3g}" for value in values), verdict)
        console.print(table)
