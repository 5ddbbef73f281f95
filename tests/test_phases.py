"""Phases of synthetic trajectories with known boundaries, and the pictures and page made of them."""

import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sgdphases.estimators.order_parameters import describe
from sgdphases.estimators.phases import find_phases, phase_medians
from sgdphases.figures import PICTURES, draw, pictures_of
from sgdphases.report import write_report
from sgdphases.sim.run_folder import RunFolder, start_folder
from sgdphases.sim.settings import make_settings
from sgdphases.sim.trajectory import trajectory_dataset, write_trajectory


def fall(epoch, centre, width=0.15):
    """From 1 to 0 around ``centre``, a step smooth in the logarithm of the epoch."""
    with np.errstate(divide="ignore"):
        return 1 / (1 + np.exp((np.log10(epoch) - np.log10(centre)) / (width / 4)))


def trajectory(clean=3.0, wrong=50.0, end=1000.0, points=120, noise=0.5):
    """Clean labels learnt around epoch ``clean``, wrong ones around ``wrong`` (None: never)."""
    epoch = np.concatenate([[0.0], np.geomspace(0.05, end, points)])
    error_c = 0.9 * fall(epoch, clean)
    error_w = 0.9 * (np.ones_like(epoch) if wrong is None else fall(epoch, wrong))
    test = 0.05 + 0.85 * fall(epoch, clean) + 0.3 * (1 - error_w / 0.9)
    rows = {name: np.full(len(epoch), 0.5) for name in describe()}
    rows |= {"step": np.rint(epoch * 1000), "test_error": test, "test_loss": test}
    rows |= {"error_c": error_c, "error_w": error_w, "train_error": (1 - noise) * error_c + noise * error_w}
    if noise == 0:
        rows |= {name: np.full(len(epoch), np.nan) for name in rows if name.endswith("_w") or name.endswith("_cw")}
    return trajectory_dataset(rows, 1000, "learning_rate = 0.1")


@given(st.floats(0.5, 8), st.floats(30, 200), st.integers(60, 300))
def test_boundaries_lie_where_the_errors_turn(clean, wrong, points):
    found = find_phases(trajectory(clean, wrong, points=points))
    assert [phase.name for phase in found.found] == ["I", "II", "III", "IV"] and not found.not_reached
    one, two, three, four = found.found
    assert clean < one.end < 1.5 * clean
    assert 0.6 * wrong < two.end < wrong < three.end < 1.6 * wrong
    assert (one.end, two.end, three.end) == (two.start, three.start, four.start)
    assert four.end == pytest.approx(1000)


def test_wrong_labels_never_learnt_leave_two_phases():
    found = find_phases(trajectory(wrong=None))
    assert [phase.name for phase in found.found] == ["I", "II"]
    assert set(found.not_reached) == {"III", "IV"}


def test_a_run_that_ends_too_soon_says_what_was_not_reached():
    found = find_phases(trajectory(wrong=900.0, end=905.0))
    assert [phase.name for phase in found.found] == ["I", "II", "III"] and set(found.not_reached) == {"IV"}


def test_labels_all_learnt_at_once_leave_no_second_phase():
    found = find_phases(trajectory(clean=20.0, wrong=20.0))
    assert "II" in found.not_reached


def test_without_wrong_labels_there_are_two_phases():
    found = find_phases(trajectory(noise=0.0))
    assert [phase.name for phase in found.found] == ["fast learning", "exploration"]
    assert 3.0 < found.found[0].end < 4.5


def test_without_a_test_set_it_says_what_is_missing():
    unknown = trajectory()
    unknown["test_error"][:] = np.nan
    found = find_phases(unknown)
    assert found.found == () and "no test error" in found.not_reached["any phase"]


def test_regression_has_no_phases_by_errors():
    data = trajectory()
    data["train_error"][:] = np.nan
    assert find_phases(data).found == ()


def test_medians_are_taken_phase_by_phase():
    data = trajectory()
    data["activity"][:] = data["epoch"].to_numpy()
    phases = find_phases(data)
    for phase, values in zip(phases.found, phase_medians(data, phases, ("activity",)), strict=True):
        assert phase.start <= values["activity"] <= phase.end


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("kind", ["noisy", "clean", "regression", "short"])
def test_every_figure_draws_every_kind_of_run(name, kind):
    data = trajectory(noise=0.0 if kind == "clean" else 0.5)
    if kind == "regression":
        for error in ("train_error", "test_error", "error_c", "error_w"):
            data[error][:] = np.nan
    if kind == "short":
        data = data.isel(step=slice(0, 2))
    assert (name in pictures_of(data)) == (name != "sharp_and_floor")
    if name == "sharp_and_floor":
        parts = ("sharpness", "alignment_cw_sharp", "alignment_cw_floor", "directed_activity_floor")
        data = data.assign({part: data["activity"] for part in parts})
        assert name in pictures_of(data)
    figure = draw(PICTURES[name], data, find_phases(data))
    FigureCanvasAgg(figure).draw()
    assert all(axes.get_ylabel() for axes in figure.axes)
    assert figure.axes[-1].get_xlabel() == "epoch" and figure.axes[-1].get_xscale() == "log"
    assert any(axes.lines for axes in figure.axes)


def test_the_report_holds_everything_in_one_file(tmp_path):
    folder = RunFolder(tmp_path / "run")
    start_folder(folder, make_settings({"dataset": "<b>mine</b>.npz", "noise_fraction": 0.5}))
    write_trajectory(folder.trajectory, trajectory())
    write_report(folder)
    page = folder.report.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(PICTURES) - 1  # no sharp directions in this run
    assert "http" not in page and "<b>mine" not in page and "noise_fraction = 0.5" in page
    assert all(f"<td>{name}</td>" in page for name in ("I", "II", "III", "IV"))
    stored = json.loads(folder.phases.read_text(encoding="utf-8"))
    assert [phase["name"] for phase in stored["found"]] == ["I", "II", "III", "IV"]
    assert {path.name for path in folder.figures.iterdir()} == {
        f"{name}.png" for name in PICTURES if name != "sharp_and_floor"
    }


def test_a_trajectory_survives_the_disk(tmp_path):
    data = trajectory()
    write_trajectory(tmp_path / "t.nc", data)
    with xr.open_dataset(tmp_path / "t.nc") as stored:
        assert stored.load().identical(data)
