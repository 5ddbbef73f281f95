"""A run to play with: what is said at each moment, and the page in a real browser."""

import dataclasses
import json
import re

import numpy as np
import pytest
from trajectories import trajectory

from sgdphases import find_phases, member_trajectory, report, sweep
from sgdphases.estimators.phases.records import Phase, Phases
from sgdphases.faces.run.explorer import explorer, places, sentences
from sgdphases.faces.run.page import summary_line
from sgdphases.faces.sweep.explorer import sweep_explorer
from sgdphases.sim.sweep.dataset import gathered
from sgdphases.sim.sweep.folder import SweepFolder

HARMLESS = ("log", "info", "debug")  # what bokeh says of itself
DRAWN = "window.Bokeh && Bokeh.documents.length === 1 && Bokeh.documents[0].is_idle"


def four_phases():
    """Gradients whose angle turns from a right angle to opposite, and losses of two populations, one without labels."""
    found = trajectory()
    steps, rng = found.sizes["step"], np.random.default_rng(0)
    wrong = np.arange(60) < 30
    losses = np.exp(rng.normal(np.where(wrong, 1.0, -1.0), 0.3, (steps, 60)))
    spectrum = np.full((steps, 20), np.nan)
    spectrum[[0, 50]] = np.geomspace(1, 1e-3, 20)
    found["alignment_cw"] = ("step", np.linspace(0, -1, steps))
    found["directed_activity_c"] = ("step", np.full(steps, 4.0))
    found["directed_activity_w"] = ("step", np.full(steps, 1.0))
    found = found.assign(sample_loss=(("step", "sample"), losses), wrong=("sample", wrong))
    return found.assign(noise_spectrum=(("step", "eigenvalue"), spectrum))


def test_each_moment_says_its_phase_what_goes_on_and_what_to_do():
    found = trajectory()
    phases = find_phases(found)
    lines = sentences(found, phases)
    assert len(lines) == found.sizes["step"]
    second, third = (next(each for each in phases.found if each.name == name) for name in ("II", "III"))
    inside = int(np.abs(found["epoch"].to_numpy() - (second.start + second.end) / 2).argmin())
    assert "<b>Phase II</b>" in lines[inside] and f"Stop before epoch {third.start:.3g}." in lines[inside]
    assert "Stop" not in lines[0] and "Stop" not in lines[-1]


def test_a_run_that_memorises_before_it_rests_is_summed_up_too():
    found = trajectory()
    phases = find_phases(found)
    restless = dataclasses.replace(phases, found=tuple(each for each in phases.found if each.name != "II"))
    assert "while it still learns that rule" in summary_line(found, restless)
    assert "at its best between" in summary_line(found, phases)


def test_the_start_stands_at_the_left_edge_of_a_logarithmic_axis():
    x = places(trajectory())
    assert (np.diff(x) > 0).all() and x[0] == pytest.approx(0.025)


@pytest.mark.parametrize("losses", [np.nan, np.inf, 0.7])
def test_losses_that_are_not_finite_or_all_the_same_are_drawn_as_far_as_they_can_be(losses):
    found = trajectory(points=5)
    steps = found.sizes["step"]
    odd = found.assign(sample_loss=(("step", "sample"), np.full((steps, 30), losses)))
    with np.errstate(all="raise"):
        assert ("log((1-p)/p)" in explorer(odd, find_phases(odd))) == (not np.isnan(losses))
    one = odd.copy(deep=True)
    one["sample_loss"][2] = np.linspace(0.1, 3, 30)
    assert "log((1-p)/p)" in explorer(one, find_phases(one))


def test_nothing_is_known_and_nothing_is_drawn_of_it():
    found = trajectory(noise=0)
    drawn = explorer(found, find_phases(found))
    assert '"arrows":null' in drawn.replace(" ", "") or '["arrows",null]' in drawn.replace(" ", "")
    assert explorer(found.isel(step=slice(1)), find_phases(found)) == ""


@pytest.mark.slow
def test_a_page_asks_nothing_of_the_network_and_keeps_its_pictures_for_print(tmp_path):
    text = report(four_phases(), tmp_path / "page").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.http", text)
    assert "<img alt=" in text and "@media print { div.explorer { display: none; } }" in text


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A small sweep, and the phases of its members."""
    folder = SweepFolder(tmp_path_factory.mktemp("sweep") / "sweep")
    axes = {"noise_fraction": [0.0, 0.4], "learning_rate": [0.05, 0.2], "seed": [0, 1]}
    sweep(
        "gaussian-mixture", axes, out=folder.path, workers=1, train_size=60, test_size=40, hidden=(8,), epochs=4,
        checkpoints=6, alignment_batches=0,
    )  # fmt: skip
    return gathered(folder, folder.read_plan())


def test_a_sweep_shows_a_map_only_where_there_is_an_axis_and_a_member_that_ended(swept):
    whole, phases = swept
    drawn = sweep_explorer(whole, phases)
    assert drawn.count("<script") >= 2 and "noise fraction" in drawn
    point = {"noise_fraction": [0], "learning_rate": [0]}
    assert sweep_explorer(whole.isel(point), phases.isel(point)) == ""
    assert sweep_explorer(whole.assign(finished=whole["finished"] & False), phases) == ""
    one = whole.copy(deep=True)
    one["finished"][0, 0] = False
    assert "did not end" in sweep_explorer(one, phases)
    assert sweep_explorer(whole.isel(learning_rate=[0]), phases.isel(learning_rate=[0]))  # one axis


def test_a_sweep_says_the_phases_that_it_is_given_of_the_first_seed_that_ended(swept):
    """They have been found before; to find them again takes as long."""
    whole, phases = swept
    whole, given = whole.copy(deep=True), phases.copy(deep=True)
    whole["finished"][0, 1, 0] = False
    given[0, 1, 0] = None
    given[0, 1, 1] = Phases((Phase("II", 1.25, 3.75, 1.25, 1.25),), {})
    drawn = sweep_explorer(whole, given)
    assert drawn.count("Phase II: epochs 1.25 to 3.75") == 1


@pytest.mark.slow
def test_in_a_browser_a_cell_that_is_clicked_shows_its_curves(swept, shown, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><html><body>{sweep_explorer(*swept)}</body></html>", encoding="utf-8")
    page = shown(path, height=1400, ignored=HARMLESS)
    page.wait_for_function(DRAWN)
    pick = """async (k) => {
        const models = Array.from(Bokeh.documents[0]._all_models.values());
        models.find((m) => m.type === "ColumnDataSource" && m.data.across).selected.indices = [k];
        await new Promise((done) => setTimeout(done, 300));
        const curve = models.find((m) => m.type === "ColumnDataSource" && m.data.train_error).data;
        return JSON.stringify([models.find((m) => m.type === "Div").text, Array.from(curve.train_error)]);
    }"""
    said, errors = json.loads(page.evaluate(pick, 3))
    wanted = member_trajectory(swept[0], noise_fraction=0.4, learning_rate=0.2, seed=0)["train_error"].to_numpy()
    assert "0.4" in said and "0.2" in said
    np.testing.assert_allclose(errors, wanted, rtol=1e-3)


@pytest.mark.slow
def test_in_a_browser_it_draws_and_the_slider_turns_the_arrows(shown, tmp_path):
    page = shown(report(four_phases(), tmp_path / "page"), height=1400, ignored=HARMLESS)
    page.wait_for_function(DRAWN)
    ends = """async (k) => {
        const models = Array.from(Bokeh.documents[0]._all_models.values());
        const slider = models.find((m) => m.type === "Slider");
        slider.value = k;
        await new Promise((done) => setTimeout(done, 300));  // callbacks are asynchronous
        const arrows = models.find((m) => m.type === "ColumnDataSource" && m.data.name);
        const said = models.find((m) => m.type === "Div").text;
        const places = models.filter((m) => m.type === "Span").map((m) => m.location);
        return JSON.stringify([Array.from(arrows.data.x), Array.from(arrows.data.y), said, places]);
    }"""
    first, last = (json.loads(page.evaluate(ends, k)) for k in (0, 120))
    heard = page.locator(".explorer").bounding_box()
    np.testing.assert_allclose(first[:2], [[2, 0, 2], [0, 1, 1]], atol=1e-9)  # at a right angle, lengths 2 and 1
    np.testing.assert_allclose(last[:2], [[2, -1, 1], [0, 0, 0]], atol=1e-7)  # opposed
    assert "Epoch 0, step 0." in first[2] and "Phase IV" in last[2]
    assert len(set(last[3])) == 1 and last[3][0] == pytest.approx(1000)
    assert heard["height"] > 900
