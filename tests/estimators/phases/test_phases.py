"""Phases of synthetic trajectories with known boundaries, and the pictures and page made of them."""

import json
import re

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from trajectories import trajectory
from two_lengths import examples

from sgdphases.estimators.phases.find import find_phases, phase_medians
from sgdphases.estimators.phases.signatures import signatures
from sgdphases.estimators.phases.summary import summarize
from sgdphases.faces.run.figures import PICTURES, draw, pictures_of
from sgdphases.faces.run.page import write_report
from sgdphases.sim.run.folder import RunFolder, start_folder
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.storage.netcdf import write_netcdf


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


def starts(phases):
    return {phase.name: phase.start for phase in phases.found}


@examples(
    25, 100, clean=st.floats(1.0, 5.0), wrong=st.floats(20.0, 300.0), points=st.integers(60, 300),
    scale=st.floats(1e-3, 1e3), height=st.floats(0.1, 1.0), seed=st.integers(0, 2**32 - 1), known=st.booleans(),
)  # fmt: skip
def test_boundaries_bear_noise_other_scales_and_other_densities(clean, wrong, points, scale, height, seed, known):
    """Within 0.12 decades of those of a dense and quiet run, with errors of 1.5 % on every checkpoint."""
    quiet = find_phases(trajectory(clean, wrong, points=600), use_wrong=known)
    data = trajectory(clean, wrong, points=points)
    rng = np.random.default_rng(seed)
    for name in ("train_error", "test_error", "error_c", "error_w"):
        data[name][:] = height * np.abs(data[name] + 0.015 * rng.uniform(-1, 1, len(data["step"])))
    data = data.assign_coords(epoch=data["epoch"] * scale)
    found = find_phases(data, use_wrong=known)
    assert list(starts(found)) == list(starts(quiet)) == ["I", "II", "III", "IV"]
    for phase in found.found[1:]:
        assert abs(np.log10(phase.start / scale / starts(quiet)[phase.name])) < 0.12, phase
        assert phase.earliest <= phase.start <= phase.latest
    assert abs(np.log10(found.t_fit / scale / quiet.t_fit)) < 0.12
    assert found.error_min < found.error_fit


@given(clean=st.floats(1.0, 5.0), wrong=st.floats(20.0, 300.0), seed=st.integers(0, 2**32 - 1))
def test_a_mask_that_marks_nothing_gives_no_phase_three(clean, wrong, seed):
    """Permuted, the marked labels are learnt as all the others are: both errors are the training error, and noise."""
    data = trajectory(clean, wrong)
    rng = np.random.default_rng(seed)
    for name in ("error_c", "error_w"):
        data[name][:] = data["train_error"] + 0.02 * rng.uniform(-1, 1, len(data["step"]))
    found = find_phases(data)
    assert "III" not in starts(found) and "along with the others" in found.not_reached["III"]


@given(clean=st.floats(1.0, 30.0), seed=st.integers(0, 2**32 - 1))
def test_without_wrong_labels_the_observables_show_none(clean, seed):
    data = trajectory(clean, noise=0.0)
    rng = np.random.default_rng(seed)
    data["test_error"][:] = 0.05 + data["train_error"] + 0.01 * rng.uniform(-1, 1, len(data["step"]))
    assert set(starts(find_phases(data, use_wrong=False))) <= {"fast learning", "exploration"}


def test_knowing_the_wrong_labels_and_not_gives_the_same_phases_about():
    for wrong in (30.0, 100.0, 300.0):
        known, unknown = find_phases(trajectory(wrong=wrong)), find_phases(trajectory(wrong=wrong), use_wrong=False)
        for one, other in zip(known.found, unknown.found, strict=True):
            assert one.name == other.name
            assert one.start == 0 or abs(np.log10(one.start / other.start)) < 0.1


def test_numbers_of_the_test_error_are_those_of_its_curve():
    data = trajectory()
    found = find_phases(data)
    assert found.error_min == pytest.approx(float(data["test_error"].min()), abs=0.01)
    assert float(data["epoch"][int(np.argmin(data["test_error"].values))]) == pytest.approx(found.t_min, rel=0.2)
    assert found.error_fit == pytest.approx(0.05 + 0.3 * 0.95, abs=0.02)
    assert np.isnan(find_phases(trajectory(wrong=None)).t_fit)


def test_signatures_say_yes_no_and_unknown():
    data = trajectory()
    data["alignment_cw"][:] = np.where(data["epoch"] < 40, -0.9, 0.4)
    data["directed_activity_w"][:] = np.nan
    found = {(each.phase, each.claim): each.shown for each in signatures(data, find_phases(data))}
    assert found["I", "R_cw < 0"] is True and found["II", "R_cw near -1"] is True
    assert found["III", "R_cw > 0"] is True and found["IV", "R_cw < 0"] is False
    assert found["I", "A_0c ≫ A_0w"] is None
    data["directed_activity_w"][:] = 0.0
    assert all(each.shown is not None for each in signatures(data, find_phases(data)))
    two = trajectory(noise=0.0)
    two["alignment"][:], two["projection_variance"][:] = 0.01, 5.0
    shown = [each.shown for each in signatures(two, find_phases(two))]
    assert shown == [False, False, True, True]


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
    write_netcdf(folder.trajectory, trajectory())
    write_report(folder)
    page = folder.report.read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == len(PICTURES) - 1  # no sharp directions in this run
    assert not re.search(r"<(script|link|img)[^>]*https?:", page)  # the explorer's code names addresses, and loads none
    assert "<b>mine" not in page and "noise_fraction = 0.5" in page
    assert all(f"<td>{name}</td>" in page for name in ("I", "II", "III", "IV"))
    stored = json.loads(folder.phases.read_text(encoding="utf-8"))
    assert [phase["name"] for phase in stored["found"]] == ["I", "II", "III", "IV"]
    assert {path.name for path in folder.figures.iterdir()} == {
        f"{name}.png" for name in PICTURES if name != "sharp_and_floor"
    }


def test_a_trajectory_survives_the_disk(tmp_path):
    data = trajectory()
    write_netcdf(tmp_path / "t.nc", data)
    with xr.open_dataset(tmp_path / "t.nc") as stored:
        assert stored.load().identical(data)


@given(st.floats(0.5, 8), st.floats(30, 200), st.floats(0.5, 500))
def test_a_summary_tells_where_the_phases_lie(clean, wrong, unit):
    made = trajectory(clean, wrong)
    during = (made["epoch"] > 0.9 * wrong) & (made["epoch"] < 1.1 * wrong)
    made["alignment_cw"] = made["alignment_cw"].where(~during, 0.75)
    found = summarize(made, find_phases(made))
    _, two, three, _ = find_phases(made).found
    assert found["length_ii"] == pytest.approx(np.log10(three.start / two.start))
    assert found["max_alignment_cw"] in (0.5, 0.75) and found["n_phases"] == 4
    assert (found["max_alignment_cw"] == 0.75) == bool(during.any())
    later = made.assign_coords(epoch=made["epoch"] * unit)
    slower = summarize(later, find_phases(later))
    for name in ("t_min", "t_fit"):
        assert slower[name] == pytest.approx(unit * found[name])
    for name in ("error_min", "error_fit", "length_ii", "max_alignment_cw"):
        assert slower[name] == pytest.approx(found[name])


def test_a_summary_leaves_out_what_there_is_not():
    short = trajectory(wrong=None)
    found = summarize(short, find_phases(short))
    assert found["n_phases"] == 2 and np.isfinite([found["t_min"], found["error_min"]]).all()
    assert np.isnan([found[name] for name in ("t_fit", "error_fit", "length_ii", "max_alignment_cw")]).all()
