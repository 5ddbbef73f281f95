"""A run as an interactive page: curves over one time axis, and a slider that shows what happens at a moment."""

import html
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from sgdphases.estimators.phases.now import LEARNT
from sgdphases.estimators.phases.records import Phase, Phases
from sgdphases.faces.run.figures import ALL, CLEAN, OTHER, SHADES, TEST, WRONG, worth_showing

WIDTH, HEIGHT, SQUARE = 900, 190, 290  # pixels
BINS = 40
LEADING = 200  # eigenvalues of the noise matrix that are drawn
FITS = 12  # checkpoints whose losses a mixture is fitted to
GREY = "#9aa4ae"


@dataclass(frozen=True)
class Panel:
    """One of the panels above each other: its curves by variable, with name, colour and dash."""

    title: str
    is_log: bool
    curves: tuple[tuple[str, str, str, str], ...]


PANELS = (
    Panel("error", False, (
        ("test_error", "ε_te, test", TEST, "solid"), ("train_error", "ε_tr, all", ALL, "dashed"),
        ("error_c", "ε_c, clean", CLEAN, "solid"), ("error_w", "ε_w, wrong", WRONG, "solid"),
    )),
    Panel("activity", True, (
        ("activity", "A", ALL, "solid"), ("directed_activity", "A₀", OTHER, "dashed"),
        ("directed_activity_c", "A₀c, clean", CLEAN, "solid"), ("directed_activity_w", "A₀w, wrong", WRONG, "solid"),
    )),
    Panel("cosine", False, (
        ("alignment", "R", GREY, "solid"), ("alignment_cw", "R_cw, clean and wrong", ALL, "solid"),
        ("alignment_ac", "R_ac, all and clean", CLEAN, "dashed"),
        ("alignment_aw", "R_aw, all and wrong", WRONG, "dashed"),
    )),
    Panel("noise along g", True, (("projection_variance", "σ_λ²", ALL, "solid"),)),
)  # fmt: skip

MOVE = """
const i = slider.value;
for (const span of spans) span.location = x[i];
moment.text = texts[i];
if (arrows !== null) {
  const [c, w, cosine] = [clean[i], wrong[i], Math.max(-1, Math.min(1, cos[i]))];
  const size = Math.max(c, w, 1e-300), sine = Math.sqrt(1 - cosine * cosine);
  const known = isFinite(c) && isFinite(w) && isFinite(cosine);
  const ends = known ? [[c, 0], [w * cosine, w * sine], [c + w * cosine, w * sine]] : [[0, 0], [0, 0], [0, 0]];
  arrows.data = {...arrows.data, x: ends.map((e) => e[0]), y: ends.map((e) => e[1])};
  for (const range of [square.x_range, square.y_range]) { range.start = -2 * size; range.end = 2 * size; }
}
if (bars !== null) {
  bars.data = {...bars.data, right: heights[0][i], wrong: heights[1][i]};
  fitted.data = {...fitted.data, y: fits[i]};
}
if (spectrum !== null) spectrum.data = {...spectrum.data, y: eigenvalues[i]};
"""


def explorer(trajectory: xr.Dataset, phases: Phases) -> str:
    """HTML that draws itself without a network: panels, slider, arrows, losses, spectrum; for the body of a page.

    Parameters
    ----------
    trajectory : xarray.Dataset
        Of a run or a monitor, of two checkpoints at least.
    phases : Phases
        Found in it.

    Returns
    -------
    str
        With the library's scripts inside, 1.7 MB; empty for fewer checkpoints.
    """
    return "" if trajectory.sizes["step"] < 2 else embedded(_layout(trajectory, phases))


def embedded(layout: Any) -> str:
    """A layout as HTML for the body of a page, with the library inside."""
    from bokeh.embed import components
    from bokeh.resources import Resources

    script, body = components(layout)
    library = Resources(mode="inline", components=["bokeh", "bokeh-widgets"]).render_js()
    return f"<div class='explorer'>{body}</div>{library}{script}"


def places(trajectory: xr.Dataset) -> np.ndarray:
    """Where checkpoints stand on a logarithmic axis of epochs: the start, epoch 0, at half of the next one."""
    epoch = trajectory["epoch"].to_numpy().astype(float)
    later = epoch[epoch > 0]
    return np.where(epoch > 0, epoch, later.min() / 2 if len(later) else 1.0)


def sentences(trajectory: xr.Dataset, phases: Phases) -> list[str]:
    """What to say at each checkpoint: epoch, phase, what goes on in it, and the numbers; HTML."""
    epoch, step = (trajectory[name].to_numpy() for name in ("epoch", "step"))
    memorising = next((phase.start for phase in phases.found if phase.name == "III"), math.nan)
    lines = []
    for k, (now, at) in enumerate(zip(epoch, step, strict=True)):
        phase = _phase_at(phases, float(now))
        text = "No phase can be identified from the errors here."
        if phase is not None:
            advice = f" Stop before epoch {memorising:.3g}." if phase.name in ("II", "III") and memorising > 0 else ""
            text = f"<b>{html.escape(named(phase.name))}</b>: {html.escape(LEARNT[phase.name])}.{advice}"
        lines.append(f"Epoch {now:.4g}, step {int(at)}. {text}<br><small>{_numbers(trajectory, k)}</small>")
    return lines


def named(phase: str) -> str:
    """The name of a phase as a sentence begins with it."""
    return f"Phase {phase}" if phase in ("I", "II", "III", "IV") else phase.capitalize()


def _phase_at(phases: Phases, epoch: float) -> Phase | None:
    return next((each for each in reversed(phases.found) if each.start <= epoch <= each.end), None)


def _numbers(trajectory: xr.Dataset, k: int) -> str:
    shown = [
        f"{name.partition(',')[0]} {float(trajectory[variable][k]):.3g}"
        for panel in PANELS for variable, name, _, _ in panel.curves if variable in trajectory
    ]  # fmt: skip
    return html.escape(", ".join(each for each in shown if not each.endswith("nan")))


def _layout(trajectory: xr.Dataset, phases: Phases) -> Any:
    from bokeh.layouts import column, row
    from bokeh.models import CustomJS, Div, Slider

    x, spans = places(trajectory), list[Any]()
    panels = _panels(trajectory, phases, x, spans)
    texts = sentences(trajectory, phases)
    begin = _first_moment(phases, trajectory)
    slider = Slider(start=0, end=len(x) - 1, value=begin, step=1, title="moment", show_value=False, width=WIDTH)
    moment = Div(text=texts[begin], width=WIDTH)
    given: dict[str, Any] = {"slider": slider, "spans": spans, "x": x.tolist(), "moment": moment, "texts": texts}
    squares: list[Any] = []
    for part in (_arrows(trajectory), _losses(trajectory), _spectrum(trajectory)):
        given |= {name: value for name, value in part.items() if name != "figure"}
        squares += [part["figure"]] if "figure" in part else []
    slider.js_on_change("value", CustomJS(args=given, code=MOVE))
    layout = column(slider, moment, row(*squares), *panels) if squares else column(slider, moment, *panels)
    _at(begin, given)
    return layout


def _first_moment(phases: Phases, trajectory: xr.Dataset) -> int:
    """A checkpoint in the middle of phase III, else of the last phase: where there is most to see."""
    if not phases.found:
        return trajectory.sizes["step"] - 1
    shown = next((phase for phase in phases.found if phase.name == "III"), phases.found[-1])
    return int(np.abs(trajectory["epoch"].to_numpy() - (shown.start + shown.end) / 2).argmin())


def _panels(trajectory: xr.Dataset, phases: Phases, x: np.ndarray, spans: list[Any]) -> list[Any]:
    """The panels above each other, with one range of epochs; fills in the line of each that marks the moment."""
    from bokeh.models import BoxAnnotation, ColumnDataSource, HoverTool, Label, Range1d, Span
    from bokeh.plotting import figure

    shown = [
        (panel, [curve for curve in panel.curves if worth_showing(trajectory, curve[0])]) for panel in PANELS
    ]  # fmt: skip
    shown = [(panel, curves) for panel, curves in shown if curves]
    columns = {"x": x, "epoch": trajectory["epoch"].to_numpy(), "step": trajectory["step"].to_numpy()}
    columns |= {name: trajectory[name].to_numpy() for _, curves in shown for name, *_ in curves}
    source, both = ColumnDataSource(columns), Range1d(x.min(), x.max())
    made = []
    for k, (panel, curves) in enumerate(shown):
        plot = figure(
            width=WIDTH, height=HEIGHT + 40 * (k == len(shown) - 1), x_axis_type="log", x_range=both, title=None,
            y_axis_type="log" if panel.is_log else "linear", y_axis_label=panel.title, toolbar_location="right",
            tools="xpan,xwheel_zoom,box_zoom,reset,save", min_border_left=70,
        )  # fmt: skip
        for j, phase in enumerate(phases.found):
            left, right = max(phase.start, x.min()), min(phase.end, x.max())
            shade = {"fill_color": SHADES[j % 2], "fill_alpha": 1, "level": "image"}
            plot.add_layout(BoxAnnotation(left=left, right=right, **shade))
            if k == 0:
                label = Label(x=math.sqrt(left * right), y=HEIGHT - 62, y_units="screen", text=phase.name)
                label.text_align, label.text_font_size = "center", "13px"
                plot.add_layout(label)
        plot.toolbar.logo, plot.toolbar.autohide = None, True
        lines = []
        for name, title, colour, dash in curves:
            values = columns[name]
            if panel.is_log:
                source.data[name] = np.where(values > 0, values, np.nan)
            lines.append(plot.line("x", name, source=source, color=colour, line_dash=dash, width=2, legend_label=title))
        tips = [("epoch", "@epoch{0.00}"), *((title, f"@{{{name}}}{{0.000e}}") for name, title, *_ in curves)]
        plot.add_tools(HoverTool(tooltips=tips, mode="vline", renderers=lines[:1], line_policy="nearest"))
        plot.add_layout(plot.legend[0], "right")
        plot.legend[0].click_policy = "hide"
        span = Span(dimension="height", line_color="#555555", line_dash="dotted", line_width=2)
        plot.add_layout(span)
        spans.append(span)
        made.append(plot)
    if made:
        made[-1].xaxis.axis_label = "epoch (the start stands at the left edge)"
    return made


def _arrows(trajectory: xr.Dataset) -> dict[str, Any]:
    """The two mean gradients at their true angle and length, and their sum."""
    names = ("directed_activity_c", "directed_activity_w", "alignment_cw")
    if not all(name in trajectory and worth_showing(trajectory, name) for name in names):
        return {"arrows": None, "clean": [], "wrong": [], "cos": [], "square": None}
    from bokeh.models import Arrow, ColumnDataSource, Range1d, VeeHead
    from bokeh.plotting import figure

    clean, wrong = (np.sqrt(trajectory[name].to_numpy()) for name in names[:2])
    source = ColumnDataSource({
        "x": [0.0] * 3, "y": [0.0] * 3, "x0": [0.0] * 3, "y0": [0.0] * 3, "name": ["clean", "wrong", "g"],
        "colour": [CLEAN, WRONG, ALL],
    })  # fmt: skip
    square = figure(
        width=SQUARE, height=SQUARE, x_range=Range1d(-1, 1), y_range=Range1d(-1, 1), toolbar_location=None, tools="",
        title="mean gradients: clean, wrong, sum",
    )  # fmt: skip
    square.title.text_font_size = "11px"
    head = VeeHead(size=10, fill_color="colour", line_color="colour")
    square.add_layout(Arrow(
        end=head, x_start="x0", y_start="y0", x_end="x", y_end="y", line_color="colour", line_width=3, source=source,
    ))  # fmt: skip
    square.text(
        "x", "y", text="name", source=source, color="colour", x_offset=6, y_offset=-4, text_font_size="12px"
    )  # fmt: skip
    square.xgrid.visible = square.ygrid.visible = False
    return {
        "figure": square, "arrows": source, "square": square, "clean": clean.tolist(), "wrong": wrong.tolist(),
        "cos": trajectory["alignment_cw"].to_numpy().tolist(),
    }  # fmt: skip


def _losses(trajectory: xr.Dataset) -> dict[str, Any]:
    """Histograms of the samples' losses at each checkpoint, and the mixture that fits them."""
    from sgdphases.estimators.cleansing.mixture import SCALES, fit_mixture  # loads scipy.stats, which takes long

    values = np.empty((0, 0))
    if "sample_loss" in trajectory:
        values = SCALES["log-odds"](trajectory["sample_loss"].to_numpy().astype(float))
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {"bars": None, "fitted": None, "heights": [], "fits": []}
    from bokeh.models import ColumnDataSource
    from bokeh.plotting import figure

    wrong = trajectory["wrong"].to_numpy().astype(bool) if "wrong" in trajectory else np.zeros(values.shape[1], bool)
    low, high = (float(each) for each in np.quantile(finite, [0.001, 0.999]))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    scale = 1 / (values.shape[1] * (edges[1] - edges[0]))
    heights = [[(np.histogram(row[mask], edges)[0] * scale).tolist() for row in values] for mask in (~wrong, wrong)]
    line = np.linspace(edges[0], edges[-1], 100)
    fits = [[math.nan] * len(line)] * len(values)
    for k in np.unique(np.linspace(0, len(values) - 1, FITS).astype(int)):
        losses = trajectory["sample_loss"].to_numpy()[k].astype(float)
        mixture = fit_mixture(losses, "log-odds") if np.isfinite(losses).all() else None
        if mixture is not None and mixture.is_two:
            fits[k] = np.sum(mixture.densities(line), axis=0).tolist()
    zero = [0.0] * BINS
    bars = ColumnDataSource({"left": edges[:-1], "end": edges[1:], "right": zero, "wrong": zero})
    fitted = ColumnDataSource({"x": line, "y": [math.nan] * len(line)})
    plot = figure(
        width=SQUARE, height=SQUARE, toolbar_location=None, tools="", x_axis_label="log((1-p)/p)",
        title="losses: clean blue, wrong orange; at times a fit",
    )  # fmt: skip
    plot.title.text_font_size = "11px"
    for name, colour in (("right", CLEAN), ("wrong", WRONG)):
        plot.quad(
            left="left", right="end", bottom=0, top=name, source=bars, fill_color=colour, fill_alpha=0.5, line_alpha=0
        )  # fmt: skip
    plot.line("x", "y", source=fitted, color=ALL, width=2)
    return {"figure": plot, "bars": bars, "fitted": fitted, "heights": heights, "fits": fits}


def _spectrum(trajectory: xr.Dataset) -> dict[str, Any]:
    """Eigenvalues of the noise matrix in order, at each checkpoint."""
    if "noise_spectrum" not in trajectory:
        return {"spectrum": None, "eigenvalues": []}
    from bokeh.models import ColumnDataSource
    from bokeh.plotting import figure

    found = trajectory["noise_spectrum"].to_numpy()[:, :LEADING]
    found = np.where(found > 0, found, np.nan)
    for k in range(1, len(found)):  # measured at some checkpoints: then the latest is shown
        if np.isnan(found[k]).all():
            found[k] = found[k - 1]
    source = ColumnDataSource({"x": np.arange(1, found.shape[1] + 1), "y": [math.nan] * found.shape[1]})
    plot = figure(
        width=SQUARE, height=SQUARE, x_axis_type="log", y_axis_type="log", toolbar_location=None, tools="",
        x_axis_label="rank", title="eigenvalues of C, measured last",
    )  # fmt: skip
    plot.title.text_font_size = "11px"
    plot.line("x", "y", source=source, color=ALL, width=2)
    return {"figure": plot, "spectrum": source, "eigenvalues": found.tolist()}


def _at(k: int, given: dict[str, Any]) -> None:
    """Put everything where the slider stands at first, as `MOVE` does when it is moved."""
    for span in given["spans"]:
        span.location = given["x"][k]
    if given["arrows"] is not None:
        clean, wrong, cosine = (given[name][k] for name in ("clean", "wrong", "cos"))
        if all(map(math.isfinite, (clean, wrong, cosine))):
            sine = math.sqrt(max(0.0, 1 - cosine**2))
            ends = [(clean, 0.0), (wrong * cosine, wrong * sine), (clean + wrong * cosine, wrong * sine)]
            _change(given["arrows"], x=[x for x, _ in ends], y=[y for _, y in ends])
            size = 2 * max(clean, wrong, 1e-300)
            for span in (given["square"].x_range, given["square"].y_range):
                span.start, span.end = -size, size
    if given["bars"] is not None:
        _change(given["bars"], right=given["heights"][0][k], wrong=given["heights"][1][k])
        _change(given["fitted"], y=given["fits"][k])
    if given["spectrum"] is not None:
        _change(given["spectrum"], y=given["eigenvalues"][k])


def _change(source: Any, **columns: list[float]) -> None:
    source.data = {**source.data, **columns}
