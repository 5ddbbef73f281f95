"""Runs held side by side: what they share, on one clock, drawn, written, and refused where it makes no sense."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from trajectories import trajectory
from typer.testing import CliRunner

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.estimators.phases.comparison import ACTIVITIES, on_phase_time
from sgdphases.estimators.phases.comparison import compare as compare_runs
from sgdphases.estimators.phases.find import find_phases
from sgdphases.faces.compare.command import compare, run_names
from sgdphases.faces.compare.figures import (
    OVERLAYS,
    RUN_COLOURS,
    RUN_LINES,
    draw_overlay,
    median_rows,
    signature_rows,
)
from sgdphases.faces.run.page import COLUMNS
from sgdphases.sim.run.folder import RunFolder, start_folder
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.storage.netcdf import write_netcdf

NAMES = tuple(COLUMNS)


def run(clean=3.0, wrong=50.0, third=0.4, size=1.0, **more):
    """A run with R_cw = -0.9 but for ``third`` in phase III, and an activity of its own size."""
    data = trajectory(clean, wrong, **more)
    if more.get("noise") == 0:
        return data
    inside = [p for p in find_phases(data).found if p.name == "III"]
    epoch = data["epoch"].to_numpy()
    high = np.zeros(len(epoch), dtype=bool)
    for phase in inside:
        high |= (epoch >= phase.start) & (epoch <= phase.end)
    data["alignment_cw"][:] = np.where(high, third, -0.9)
    for name in ACTIVITIES:
        data[name][:] = size * (1 + epoch)
    return data


def stored(path, data):
    folder = RunFolder(path)
    start_folder(folder, make_settings({"dataset": "mine.npz", "noise_fraction": 0.5}))
    write_netcdf(folder.trajectory, data)
    return path


def test_verdicts_agree_differ_or_stay_open():
    found = compare_runs({"a": run(), "b": run(third=-0.3), "c": run(wrong=None)}, NAMES)
    table = {(each.phase, each.claim): each for each in found.findings}
    assert table["I", "R_cw < 0"].shown == {"a": True, "b": True, "c": True}
    assert table["I", "R_cw < 0"].agreed is True
    third = table["III", "R_cw > 0"]
    assert third.shown == {"a": True, "b": False, "c": None} and third.agreed is False
    assert table["IV", "R_cw < 0"].shown["c"] is None and table["IV", "R_cw < 0"].agreed is None
    assert [phase for phase, _ in table] == sorted([phase for phase, _ in table], key=["I", "II", "III", "IV"].index)


def test_a_phase_that_only_the_second_run_reached_stands_in_its_place():
    found = compare_runs({"short": run(wrong=None), "whole": run()}, NAMES)
    assert list(dict.fromkeys(each.phase for each in found.findings)) == ["I", "II", "III", "IV"]
    assert set(found.medians["short"]) == {"I", "II"}


@settings(max_examples=10)
@given(st.floats(1e-8, 1e8), st.floats(1e-3, 1e3))
def test_units_of_activity_and_of_time_cancel(size, pace):
    one, other = run(), run(size=size)
    other = other.assign_coords(epoch=other["epoch"] * pace)
    curves = [on_phase_time(data, find_phases(data)) for data in (one, other)]
    assert np.allclose(curves[0]["tau"], curves[1]["tau"], atol=1e-6)
    for name in ACTIVITIES:
        assert np.allclose(curves[0][name], curves[1][name], rtol=1e-9)
    unit = curves[1].attrs["activity_unit"]
    assert np.allclose(other["directed_activity_c"], unit * curves[1]["directed_activity_c"], rtol=1e-9)


def test_activities_are_one_where_phase_one_ends_and_ratios_stay():
    data = run()
    data["activity_c"][:] = 3 * data["activity"]
    curves = on_phase_time(data, find_phases(data))
    later = int(np.searchsorted(curves["tau"], 1))  # this activity only grows
    assert curves["activity"][later - 1] < 1 <= curves["activity"][later]
    assert np.allclose(curves["activity_c"], 3 * curves["activity"])
    assert np.array_equal(curves["alignment_cw"], data["alignment_cw"])


def test_an_activity_that_vanishes_gives_no_numbers():
    data = run(size=0.0)
    assert np.isnan(on_phase_time(data, find_phases(data))["activity"]).all()


def test_medians_are_those_of_each_run():
    found = compare_runs({"a": run(), "b": run(third=-0.3)}, NAMES)
    assert found.medians["a"]["III"]["alignment_cw"] == 0.4
    assert found.medians["b"]["III"]["alignment_cw"] == -0.3
    heading, rows = median_rows(found)
    place = heading.index("R_cw")
    assert [(row[0], row[1], row[place]) for row in rows if row[0] == "III"] == [
        ("III", "a", "0.4"),
        ("III", "b", "-0.3"),
    ]


def test_runs_of_two_kinds_are_refused_by_name():
    with pytest.raises(UsageError, match=r"quiet shows the two phases.*noisy the four"):
        compare_runs({"noisy": run(), "quiet": run(noise=0.0)}, NAMES)
    with pytest.raises(UsageError, match=r"quiet shows the two phases.*noisy the four"):
        compare_runs({"quiet": run(noise=0.0), "noisy": run()}, NAMES)


def test_one_run_and_runs_without_phases_are_refused():
    with pytest.raises(UsageError, match="name two"):
        compare_runs({"a": run()}, NAMES)
    regression = run()
    regression["train_error"][:] = np.nan
    with pytest.raises(InputError, match="b shows no phases"):
        compare_runs({"a": run(), "b": regression}, NAMES)


@pytest.mark.parametrize(
    "picture, kind",
    [("overview", "four"), ("overview", "two"), ("overview", "short")]
    + [(name, "four") for name in OVERLAYS if name != "overview"],
)
def test_every_picture_draws_every_kind(picture, kind):
    more = {"four": {}, "two": {"noise": 0.0}, "short": {"wrong": None}}[kind]
    found = compare_runs({"a": run(**more), "b": run(clean=6.0, **more)}, NAMES)
    figure = draw_overlay(OVERLAYS[picture], found)
    FigureCanvasAgg(figure).draw()
    bands = 2 if kind == "two" else 4
    for axes in figure.axes:
        assert axes.get_xlim() == (0, bands) and axes.get_title() and axes.get_ylabel()
        shown = [line for line in axes.lines if line.get_label() in ("a", "b")]
        assert [to_hex(line.get_color()).upper() for line in shown] == list(RUN_COLOURS[:2])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    names = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert names == ({"fast learning", "exploration"} if kind == "two" else {"I", "II", "III", "IV"})


def test_a_skipped_phase_is_not_bridged():
    data = run()
    curves = compare_runs({"a": data, "b": data}, NAMES)
    jump = curves.curves["a"]["tau"].to_numpy().copy()
    jump[(jump >= 1) & (jump < 2)] = 2.0
    curves.curves["a"] = curves.curves["a"].assign_coords(tau=("step", jump))
    line = draw_overlay(OVERLAYS["errors"], curves).axes[0].lines[0]
    tau, values = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    torn = np.flatnonzero(np.isnan(values))
    assert len(torn) == 1 and tau[torn[0] - 1] < 1 and tau[torn[0] + 1] >= 2


def test_28_runs_look_different():
    styles = {(RUN_COLOURS[k % len(RUN_COLOURS)], RUN_LINES[k % len(RUN_LINES)]) for k in range(28)}
    assert len(styles) == 28


def test_names_are_as_long_as_they_must_be(tmp_path):
    paths = [tmp_path / name for name in ("x/run", "y/run", "y/other")]
    assert list(run_names(paths)) == ["x/run", "y/run", "y/other"]
    assert list(run_names(paths[1:])) == ["run", "other"]
    assert run_names(paths[1:])["other"] == paths[2]
    with pytest.raises(UsageError, match="named twice"):
        run_names([paths[0], tmp_path / "y" / ".." / "x" / "run"])
    with pytest.raises(UsageError, match="two at least"):
        run_names(paths[:1])


@pytest.mark.usefixtures("pictures")
def test_the_command_writes_a_page_and_replaces_only_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    one, two = stored(tmp_path / "one <b>", run()), stored(tmp_path / "two", run(third=-0.3))
    command = typer.Typer()
    command.command()(compare)
    assert CliRunner().invoke(command, [str(one), str(two)]).exit_code == 0
    out = tmp_path / "comparison"
    files = {f"{name}.png" for name in OVERLAYS} | {"comparison.html", "comparison.json"}
    assert {path.name for path in out.iterdir()} == files
    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(OVERLAYS) and "http" not in page and "<b>" not in page
    record = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert list(record["runs"]) == ["one <b>", "two"]
    third = [each for each in record["signatures"] if each["phase"] == "III"]
    assert [(each["shown"], each["agreed"]) for each in third] == [({"one <b>": True, "two": False}, False)]

    monkeypatch.setattr("sgdphases.faces.compare.figures.OVERLAYS", {"errors": OVERLAYS["errors"]})
    compare([two, one], Path("comparison"))
    assert capsys.readouterr().out.strip().splitlines()[-1] == "comparison: comparison/comparison.html"
    assert list(json.loads((out / "comparison.json").read_text(encoding="utf-8"))["runs"]) == ["two", "one <b>"]

    before = {path: path.read_bytes() for path in one.iterdir()}
    for place in (one, one / "config.toml"):
        with pytest.raises(UsageError, match=r"config\.toml is a file|no comparison"):
            compare([one, two], place)
    assert {path: path.read_bytes() for path in one.iterdir()} == before


@pytest.mark.parametrize(
    "names, error, message",
    [
        (["one"], UsageError, "two at least"),
        (["one", "./one"], UsageError, "named twice"),
        (["one", "quiet"], UsageError, "quiet shows the two phases"),
        (["one", "nowhere"], InputError, "nowhere"),
    ],
)
def test_mistakes_are_reported_and_nothing_is_written(tmp_path, monkeypatch, names, error, message):
    monkeypatch.chdir(tmp_path)
    stored(Path("one"), run())
    stored(Path("quiet"), run(noise=0.0))
    with pytest.raises(error, match=message):
        compare([Path(name) for name in names], Path("comparison"))
    assert not Path("comparison").exists()


def test_the_table_of_signatures_has_a_column_a_run():
    heading, rows = signature_rows(compare_runs({"a": run(), "b": run(third=-0.3)}, NAMES))
    assert heading == ["phase", "signature", "a", "b", "verdict"]
    assert ["III", "R_cw > 0", "yes", "no", "differ"] in rows and ["I", "R_cw < 0", "yes", "yes", "all agree"] in rows
