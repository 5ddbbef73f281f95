"""Help and progress as they look: every command's own defaults, -h, and narrow terminals."""

import io
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from trajectories import trajectory
from typer.testing import CliRunner

from sgdphases import find_phases
from sgdphases.cli import app
from sgdphases.faces import terminal
from sgdphases.faces.cleanse.command import PROBES
from sgdphases.faces.run.page import meanings_line, phase_rows
from sgdphases.faces.run.terminal_picture import BARS, LEAST, MOST, NAME, RANGE, picture_lines


def helped(*arguments):
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "240", "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


def line_of(text, flag):
    return " ".join(next(line for line in text.splitlines() if re.search(rf"{flag}\b", line)).split())


COMMANDS = [
    [], ["run"], ["sweep"], ["resume"], ["report"], ["compare"], ["cleanse"], ["reproduce"], ["verify"], ["datasets"],
    ["presets"], ["backends"], ["theory"], ["theory", "linear"], ["theory", "committee"], ["theory", "clean-priority"],
    ["theory", "dmft"], ["theory", "phase-diagram"], ["theory", "finite-rate"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_h_is_help_everywhere(command):
    assert helped(*command, "-h") == helped(*command, "--help")


def test_the_help_of_cleanse_shows_its_own_defaults():
    run, cleanse = helped("run", "-h"), helped("cleanse", "-h")
    assert "[default: 60]" in line_of(run, "--checkpoints") and "[default: 300]" in line_of(run, "--epochs")
    assert f"[default: {PROBES}]" in line_of(cleanse, "--checkpoints") and "losses are recorded" in line_of(
        cleanse, "--checkpoints"
    )
    assert "[default: 100, or 10,000 steps; network image: 25, or 2,000]" in line_of(cleanse, "--epochs")
    assert "300" not in line_of(cleanse, "--epochs")
    for flag, own in (("--learning-rate", "network image: 0.05"), ("--batch-size", "network image: 64")):
        assert own in line_of(cleanse, flag) and own not in line_of(run, flag)
    assert line_of(run, "--seed") == line_of(cleanse, "--seed")


STATE = SimpleNamespace(
    step=123,
    n_steps=1000,
    epoch=12.25,
    latest={
        "loss": 0.123, "test_error": 0.45, "activity": 0.0012, "alignment_cw": -0.31, "projection_variance": 12345.0,
    },
)  # fmt: skip


def shown(monkeypatch, width, draw):
    """Lines that a terminal of some width gets to see."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None, legacy_windows=False)
    monkeypatch.setattr(terminal, "console", console)
    draw()
    return [line for line in re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())) if line.strip()]


@pytest.mark.parametrize("width", [20, 40, 60, 72, 80, 120, 200])
def test_progress_fits_the_terminal(monkeypatch, width):
    def draw():
        with terminal.progress(STATE.n_steps) as show:
            show(STATE)

    last = shown(monkeypatch, width, draw)[-1]
    assert len(last) <= width and "12%" in last and "epoch 12.25" in last and "…" not in last
    symbols = [symbol for symbol in ("L 0.12", "ε_te 0.45", "A 0.0012", "R_cw -0.31", "σ_λ² 1.2e+04") if symbol in last]
    assert len(symbols) == {20: 0, 40: 2, 60: 4, 72: 2, 80: 3}.get(width, 5)
    assert not re.search(r"(L|ε_te|A|R_cw|σ_λ²)\s*$", last)


@pytest.mark.parametrize("width", [NAME + LEAST + RANGE, 80, 300])
def test_a_run_is_pictured_with_its_phases_where_they_are(width):
    found = trajectory()
    phases = find_phases(found)
    spans, test_error, activity, alignment = picture_lines(found, phases, width)
    assert all(len(line) <= width for line in (spans, test_error, activity, alignment))
    bars = test_error[NAME:].split("  ")[0]
    picture = spans[NAME : NAME + len(bars)]
    assert re.fullmatch(r"\|I·+\|II·+(\|III·*|\|·*)?\|IV·+", picture) and test_error.startswith("ε_te")
    assert picture.count("|") == 4 or width < 80
    last = bars.rindex(BARS[0])
    assert picture.index("II") <= last < picture.index("IV") and bars[0] == BARS[-1]
    assert "0.5 to 0.5" in activity and "0.5 to 0.5" in alignment
    lowest, highest = float(found["test_error"].min()), float(found["test_error"].max())
    assert test_error.endswith(f"{lowest:.2g} to {highest:.2g}")


def test_there_is_no_picture_without_phases_or_room():
    found = trajectory(noise=0)
    phases = find_phases(found)
    assert len(picture_lines(found, phases, 80)) == 3  # no R_cw without wrong labels
    assert picture_lines(found, phases, NAME + LEAST + RANGE - 1) == []
    assert picture_lines(found, replace(phases, found=()), 80) == []
    found["activity"][-1] = np.nan
    assert picture_lines(found, phases, 400)[2][NAME + MOST - 1] == " "


def test_every_column_of_the_table_of_phases_is_explained():
    found, few = trajectory(), trajectory(noise=0)
    heading, _ = phase_rows(found, find_phases(found))
    assert len(heading) == 12 and all(re.search(rf"(: |, ){title} \w", meanings_line(found)) for title in heading[3:])
    assert "R_cw" not in meanings_line(few) and "ε_te test error" in meanings_line(few)


def test_other_progress_fits_forty_columns(monkeypatch):
    def draw():
        with terminal.stage_progress() as show:
            show("training on all labels", 5, 10)

    last = shown(monkeypatch, 40, draw)[-1]
    assert len(last) <= 40 and "training on all labels" in last and "50%" in last
    plan = SimpleNamespace(members=lambda: [1] * 1200)
    job = SimpleNamespace(is_finished=lambda folder, settings: False)
    plan.members = lambda: [SimpleNamespace(settings=None)] * 1200
    folder = SimpleNamespace(member=lambda member: None)

    def sweep():
        with terminal.sweep_progress(folder, plan, job) as show:
            show(SimpleNamespace(failure=None))

    last = shown(monkeypatch, 40, sweep)[-1]
    assert len(last) <= 40 and re.search(r"1/1200", last)


@pytest.mark.parametrize("width", [20, 40, 60, 100])
def test_tables_are_neither_cut_nor_wrapped(monkeypatch, width):
    heading = ["ρ", "α", "runs", *(f"quantity {n}" for n in range(9))]
    rows = [["0.1", "0.0152", "5/5", *(f"{n}.25 [x]" for n in range(9))], ["0.2", "1", "4/5", *["–"] * 9]]
    lines = shown(monkeypatch, width, lambda: terminal.print_table(heading, rows, repeated=2))
    cells = [cell for cells in (heading[2:], *(row[2:] for row in rows)) for cell in cells if cell != "–"]
    for cell in cells:
        assert sum(cell in line for line in lines) >= 1, cell
    assert not any("…" in line for line in lines)
    assert max(len(line.rstrip()) for line in lines) <= max(width, 26)
    assert sum(line.startswith("ρ") for line in lines) == sum(line.startswith("0.1 0.0152") for line in lines) >= 1
    assert shown(monkeypatch, width, lambda: terminal.print_table(["a"], [])) == []
