"""Pictures are legible: nothing is cut off at the edge, nothing is printed over something else, nothing is hidden."""

import itertools

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from trajectories import trajectory
from two_lengths import slow

from sgdphases.estimators.cleansing.consensus import consensus
from sgdphases.estimators.cleansing.wrong_labels import wrong_labels
from sgdphases.estimators.phases.find import find_phases
from sgdphases.estimators.phases.summary import SUMMARY
from sgdphases.faces.cleanse.figures import agreement_figure, loss_figure, suspects_figure
from sgdphases.faces.run.figures import CLEAN, OTHER, PICTURES, TEST, WRONG, draw
from sgdphases.faces.sweep.figures import log_ticks, over_two_axes
from sgdphases.paper.cleansing_figure import _mixture
from sgdphases.paper.figures import activities


def drawn(figure):
    """The figure's pixels, shape (height, width, 3), from 0 to 1, and its texts with the boxes they fill."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    off = [axis for axes in figure.axes if not axes.axison for axis in (axes.xaxis, axes.yaxis)]
    hidden = {id(text) for axis in off for text in axis.findobj(Text)}
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        outside = [tick for tick in (*axis.majorTicks, *axis.minorTicks) if not low <= tick.get_loc() <= high]
        hidden |= {id(text) for tick in outside for text in (tick.label1, tick.label2)}
    found = [each for each in figure.findobj(Text) if each.get_visible() and each.get_text().strip()]
    found = [each for each in found if id(each) not in hidden]
    boxes = [(each, each.get_window_extent(canvas.get_renderer())) for each in found]
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255, [(each, box) for each, box in boxes if box.width > 0]


def check_legible(figure):
    pixels, texts = drawn(figure)
    height, width = pixels.shape[:2]
    for text, box in texts:
        inside = box.x0 >= -0.5 and box.y0 >= -0.5 and box.x1 <= width + 0.5 and box.y1 <= height + 0.5
        assert inside, f"{text.get_text()!r} is cut off: {box} of {width} x {height}"
    for (one, box), (other, second) in itertools.combinations(texts, 2):
        shrunk = (min(box.x1, second.x1) - max(box.x0, second.x0), min(box.y1, second.y1) - max(box.y0, second.y0))
        assert min(shrunk) < 1.5, f"{one.get_text()!r} is printed over {other.get_text()!r}"


def swept(t_min, across=("noise_fraction", [0.1, 0.5]), up=("learning_rate", [0.01, 0.1, 1.0])):
    """A sweep's data set, of a table of t_m."""
    shape = (len(across[1]), len(up[1]))
    numbers = {name: np.linspace(0.01, 1, np.prod(shape)).reshape(shape) for name in SUMMARY}
    numbers["t_min"] = np.resize(t_min, shape)
    axes = (across[0], up[0])
    meaning = {name: dict(zip(("symbol", "long_name", "units"), SUMMARY[name], strict=True)) for name in SUMMARY}
    variables = {name: (axes, values, meaning[name]) for name, values in numbers.items()}
    variables["finished"] = (axes, np.ones(shape, bool))
    return xr.Dataset(variables, dict([across, up]))


@pytest.mark.parametrize(
    "times",
    [[0.9, 60], [5, 5], [3e-5, 7e3], [99, 101]]
    + [slow(each) for each in ([0.02, 30], [2.9, 88], [21, 194], [22.9, 30], [1, 1e4], [0.7, 12])],
    ids=str,
)
def test_maps_are_legible_whatever_their_range(times):
    check_legible(over_two_axes(swept(times), {}))


@pytest.mark.parametrize(
    ("across", "up"),
    [
        (("hidden", ["100-100-100-100", "5-5-5", "none"]), ("learning_rate", list(np.geomspace(0.01, 1, 12)))),
        (("learning_rate", list(np.geomspace(0.001, 1, 14))), ("noise_fraction", list(np.linspace(0, 0.9, 10)))),
    ],
)
def test_maps_are_legible_whatever_their_axes(across, up):
    check_legible(over_two_axes(swept(np.geomspace(0.0312, 312, 40), across, up), {}))


@pytest.mark.parametrize("scale", [1.0, 3e-9, 4e6])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_pictures_of_a_run_are_legible_and_laid_out_without_a_second_drawing(noise, scale):
    run = trajectory(noise=noise)
    for name in ("activity", "activity_c", "activity_w", "directed_activity", "loss", "projection_variance"):
        run[name] = run[name].copy(data=scale * np.geomspace(1, 1e-4, run.sizes["step"]))
    for name in ("phases", "losses", "projection_variance"):
        figure = draw(PICTURES[name], run, find_phases(run))
        assert figure.get_layout_engine() is None
        check_legible(figure)


@given(st.floats(-6, 6), st.floats(0.0, 8))
def test_ticks_of_a_logarithmic_bar_are_few_and_inside(start, decades):
    low, high = 10.0**start, 10.0 ** (start + decades) * 1.01
    ticks = log_ticks(low, high)
    assert 1 <= len(ticks) <= 9 and ticks == sorted(set(ticks))
    if decades > 0.1:
        assert len(ticks) >= 2 and low <= ticks[0] and ticks[-1] <= high


@pytest.fixture(scope="module")
def noisy():
    """Losses of a run with two populations, and what is found from them."""
    rng = np.random.default_rng(0)
    wrong = rng.random(2000) < 0.4
    epochs = np.geomspace(1, 100, 30)
    base = np.where(wrong, 2.6, 0.7) * np.exp(0.25 * rng.normal(size=2000))
    losses = base * np.exp(0.3 * rng.normal(size=(30, 2000)) * np.abs(np.log(epochs / 6))[:, None])
    agreed = consensus(epochs, losses.astype(np.float32))
    found = wrong_labels(agreed.loss, rng.integers(0, 10, 2000))
    assert found.has_noise
    return agreed, found, wrong


def test_the_figures_of_a_cleansing_are_legible(noisy):
    agreed, found, wrong = noisy
    check_legible(agreement_figure(agreed))
    check_legible(loss_figure(agreed, found, wrong))
    check_legible(loss_figure(agreed, found, None))


@pytest.mark.parametrize(
    "names",
    [["0", "1"], ["digit 0", "digit 1"], ["Mediterranean fruit fly", "$x_$ {\\n"]],
    ids=["short", "folders", "long"],
)
def test_the_most_suspect_images_are_legible_whatever_their_classes_are_called(names):
    given, images = np.array(names)[np.arange(17) % 2], np.random.default_rng(0).random((17, 1, 9, 9))
    check_legible(suspects_figure(images, np.arange(17), np.full(17, 0.5), given, given[::-1]))


def pixels_like(pixels, colour):
    return int((np.abs(pixels - to_rgb(colour)).max(axis=2) < 0.12).sum())


def test_fitted_components_are_seen_on_the_fit(noisy):
    """Away from where they cross they coincide with the fit: each must still be drawn on it, not under it."""
    agreed, found, _ = noisy
    figure = loss_figure(agreed, found, None)
    pixels, _ = drawn(figure)
    (axes,) = figure.axes
    lower, upper = (
        next(line for line in axes.lines if line.get_label() == f"fitted, {kind}") for kind in ("right", "wrong")
    )
    for line, colour in ((lower, TEST), (upper, OTHER)):
        x, y = line.get_data()
        places = axes.transData.transform(np.column_stack([x, y])[y > 0.5 * y.max()])
        height = pixels.shape[0]
        low, high = places.min(axis=0).astype(int) - 4, places.max(axis=0).astype(int) + 4
        mode = pixels[height - high[1] : height - low[1], low[0] : high[0]]
        length = np.abs(np.diff(places, axis=0)).sum()
        assert pixels_like(mode, colour) > 0.3 * length, f"{colour} is hidden"


def test_fitted_components_of_figure_6_are_seen_on_the_fit():
    from matplotlib.figure import Figure

    loss = np.linspace(0.05, 7.95, 80)
    counts = np.rint(1000 * np.exp(-(((loss - 1) / 0.4) ** 2)) + 500 * np.exp(-(((loss - 3) / 0.8) ** 2)))
    numbers = dict(fitted_share=0.5, mean_c=1.0, mean_w=3.0, deviation_c=0.3, deviation_w=0.6, fit_distance=0.02)
    record = xr.Dataset(
        {name: ("step", [value]) for name, value in numbers.items()}
        | {f"count_{part}": (("step", "bin"), counts[None] / 2) for part in "cw"}
        | {"t_clean": 6.0},
        {"step": [600], "epoch": ("step", [6.0]), "loss": ("bin", loss)},
    )
    figure = Figure(figsize=(5, 4), layout="constrained")
    _mixture(figure.subplots(), record)
    pixels, _ = drawn(figure)
    assert pixels_like(pixels, CLEAN) > 150 and pixels_like(pixels, WRONG) > 150


def test_figure_4_is_legible_and_shows_its_ratio_without_stretching_its_axes():
    runs = [trajectory(), trajectory(clean=3.3)]
    for run in runs:
        epoch = run["epoch"].to_numpy()
        for k, name in enumerate(("directed_activity", "directed_activity_c", "directed_activity_w")):
            run[name] = ("step", 10.0 ** (np.sin(np.log(epoch + 0.1) + k)))
    figure = activities(runs)
    check_legible(figure)
    panel = next(axes for axes in figure.axes if axes.get_title().startswith("B"))
    low, high = panel.get_ylim()
    assert low > 0.05 and high < 20 and not panel.child_axes
    assert any("A_{0,w} / A_{0,c}" in axes.get_ylabel() for axes in figure.axes)
