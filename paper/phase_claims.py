"""What Feng & Tu 2021 say of their figures 1, 3 and 4, judged on runs of ours; a claim is what all figures share.

Thresholds for words such as "about zero" stand here, each beside its claim. What is judged is the median over seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import spearmanr

from sgdphases.estimators.phases.find import find_phases, phase_medians
from sgdphases.estimators.phases.phase_time import FOUR, TWO
from sgdphases.estimators.phases.records import Phases
from sgdphases.estimators.phases.signatures import signatures
from sgdphases.theory.ensemble import ratio

_ACTIVITIES = {
    "A, A_c, A_w": ("activity", "activity_c", "activity_w"),
    "A_0c, A_0w": ("directed_activity_c", "directed_activity_w"),
    "A_0": ("directed_activity",),
}
SOLVED = 0.001  # training error from which it counts as zero, or nearly so


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, and what became of it.

    Attributes
    ----------
    figure : str
    claim : str
        The paper's, with the threshold that it is judged by.
    ours : str
        Median over seeds, and the smallest and largest; empty where nothing is known.
    holds : bool or None
        None where it cannot be told.
    values : tuple of float
        What ``ours`` sums up: one number a seed, or one a noise fraction where the claim is about all of them.
    """

    figure: str
    claim: str
    ours: str
    holds: bool | None
    values: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; None for what is unknown."""
        found = asdict(self)
        return {**found, "values": [None if value != value else value for value in self.values]}


def two_phase_claims(network: str, runs: Sequence[xr.Dataset]) -> list[Claim]:
    """Figure 1: the fast learning phase, and what comes once the training error is (nearly) zero."""
    fast = [_medians(run, "fast learning", ("activity", "alignment", "projection_variance")) for run in runs]
    late = [solved_medians(run, ("activity", "alignment", "projection_variance")) for run in runs]
    ratios = [ratio(b["activity"], a["activity"]) for a, b in zip(fast, late, strict=True)]
    last = [float(run["train_error"][-1]) for run in runs]

    def of(part: list[dict[str, float]], name: str) -> list[float]:
        return [values[name] for values in part]

    rows: list[tuple[str, list[float], Callable[[float], bool]]] = [
        ("the training error reaches (nearly) zero (last value at most 0.001)", last, lambda v: v <= SOLVED),
        ("R is finite in fast learning (above 0.1)", of(fast, "alignment"), lambda v: v > 0.1),
        ("R is about 0 once the error is zero (within 0.05)", of(late, "alignment"), lambda v: abs(v) < 0.05),
        ("σ_λ² is about 1 in fast learning (0.1 to 10)", of(fast, "projection_variance"), lambda v: 0.1 <= v <= 10),
        ("σ_λ² ≫ 1 once the error is zero (above 10)", of(late, "projection_variance"), lambda v: v > 10),
        (
            "A is much smaller once the error is zero (under a tenth of that in fast learning)",
            ratios,
            lambda v: v < 0.1,
        ),
    ]
    return [over_seeds("fig1", f"{network}: {text}", values, test) for text, values, test in rows]


def solved_medians(run: xr.Dataset, names: tuple[str, ...]) -> dict[str, float]:
    """Medians over the checkpoints after the last at which the training error exceeds `SOLVED`; NaN if there is none.

    Single checkpoints may lie above: the running share of those that do is what counts, so a start is the first one
    from which at least nine of ten lie below.
    """
    start = solved_from(run)
    inside = np.arange(run.sizes["step"]) >= (run.sizes["step"] if start is None else start)
    return {name: float(np.median(run[name].to_numpy()[inside])) if inside.any() else float("nan") for name in names}


def solved_from(run: xr.Dataset) -> int | None:
    """The first checkpoint with a training error of at most `SOLVED` from which nine of ten have such; None if none."""
    below = run["train_error"].to_numpy() <= SOLVED
    share = np.cumsum(below[::-1])[::-1] / np.arange(len(below), 0, -1)
    places = np.flatnonzero(below & (share >= 0.9))
    return int(places[0]) if len(places) else None


def fraction_claims(runs: Mapping[float, Sequence[xr.Dataset]]) -> list[Claim]:
    """Figure 3: errors and time scales against the noise fraction; each of its runs is one seed."""
    found = {rho: [find_phases(run) for run in several] for rho, several in sorted(runs.items())}
    noisy = [rho for rho in found if 0 < rho < 0.85]

    def medians(name: str, fractions: Sequence[float]) -> np.ndarray:
        return np.array([_median([getattr(phases, name) for phases in found[rho]]) for rho in fractions])

    four = [float(_names(phases) == FOUR) for rho in noisy for phases in found[rho]]
    two = [float(_names(phases) == TWO) for phases in found.get(0.0, [])]
    apart = [boundary_distance(run, phases) for rho in noisy for run, phases in zip(runs[rho], found[rho], strict=True)]
    t_min, t_fit = medians("t_min", noisy), medians("t_fit", noisy)
    rises = medians("error_fit", noisy) - medians("error_min", noisy)
    everywhere = list(found)
    error_fit, error_min = medians("error_fit", everywhere), medians("error_min", everywhere)
    fit = line(np.array(everywhere), error_fit)
    low = [rho for rho in everywhere if rho <= 0.4]
    climb = medians("error_min", low)[-1] - medians("error_min", low)[0] if len(low) > 1 else float("nan")
    top = max(everywhere, default=float("nan"))
    near = float(error_min[-1] / error_fit[-1]) if top > 0.85 else float("nan")
    spread = float(t_min.max() / t_min.min()) if len(t_min) and np.isfinite(t_min).all() else float("nan")
    growth = float(t_fit[-1] / t_fit[0]) if len(t_fit) > 1 else float("nan")
    order = rank_correlation(np.array(noisy), t_fit)
    grows = None if growth != growth or len(noisy) < 3 else bool(growth > 1 and order > 0.8)
    span = f"ρ from {min(noisy):g} to {max(noisy):g}" if noisy else "no ρ between 0 and 0.85"
    return [
        over_seeds("fig3", f"all four phases, one after the other, {span}", four, lambda v: v == 1, share=True),
        over_seeds("fig3", "two phases and no more at ρ = 0", two, lambda v: v == 1, share=True),
        over_seeds(
            "fig3",
            "(ours) II, III and IV begin at the same place without knowledge of the wrong labels (within 0.15 decades)",
            apart, lambda v: v < 0.15,
        ),
        _single(
            "fig3", "the test error is U-shaped for a wide range of ρ (ε_f - ε_m above 0.02 for every 0 < ρ < 0.85)",
            f"least rise {number(rises.min())}, {span}" if len(rises) else "", rises,
            bool((rises > 0.02).all()) if len(rises) and np.isfinite(rises).all() else None,
        ),
        _single(
            "fig3", "t_m hardly depends on ρ (largest over smallest below 3)",
            f"ratio {number(spread)}, {span}" if spread == spread else "", t_min,
            None if spread != spread else spread < 3,
        ),
        _single(
            "fig3", "t_f grows with ρ (rank correlation above 0.8)",
            f"ratio {number(growth)}, rank correlation {number(order)}, {span}" if grows is not None else "",
            t_fit, grows,
        ),
        _single(
            "fig3", "ε_f is nearly linear in ρ (R² above 0.95)",
            f"slope {number(fit[0])}, R² {fit[2]:.3f}" if fit[2] == fit[2] else "", error_fit,
            None if fit[2] != fit[2] else bool(fit[2] > 0.95 and fit[0] > 0),
        ),
        _single(
            "fig3", "ε_m stays about the same for small ρ (rises by less than 0.1 up to ρ = 0.4)",
            f"rises by {number(float(climb))}" if climb == climb else "", error_min,
            None if climb != climb else bool(climb < 0.1),
        ),
        _single(
            "fig3", "ε_m approaches ε_f above ρ = 0.85 (at least nine tenths of it)",
            f"ε_m/ε_f = {number(near)} at ρ = {top:g}" if near == near else "", error_min,
            None if near != near else bool(near >= 0.9),
        ),
    ]  # fmt: skip


def boundary_distance(run: xr.Dataset, phases: Phases) -> float:
    """How far the phases found without knowledge of the wrong labels begin from ``phases``, in decades of the epoch.

    The largest over all phases but the first; infinite where another set of phases is found, NaN for one phase only.
    """
    blind = find_phases(run, use_wrong=False)
    if _names(blind) != _names(phases):
        return float("inf")
    pairs = zip(phases.found[1:], blind.found[1:], strict=True)
    return max((abs(float(np.log10(b.start / a.start))) for a, b in pairs), default=float("nan"))


def activity_claims(runs: Sequence[xr.Dataset]) -> list[Claim]:
    """Figure 4: activities and alignments by phase, for half of the labels wrong."""
    found = []
    for symbols, names in _ACTIVITIES.items():
        rises, falls = [], []
        for run in runs:
            one, two, three, four = (np.array(list(_medians(run, phase, names).values())) for phase in FOUR)
            rises.append(float(np.min([two / one, three / two])))
            falls.append(float(np.max(four / three)))
        found += [
            over_seeds(
                "fig4", f"{symbols}: rise from I to II to III (least ratio of medians above 1)", rises, lambda v: v > 1
            ),
            over_seeds("fig4", f"{symbols}: fall in IV (largest ratio to III below 1)", falls, lambda v: v < 1),
        ]
    shown: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for each in signatures(run, find_phases(run)):
            value = float("nan") if each.shown is None else float(each.shown)
            shown.setdefault((each.phase, each.claim), []).append(value)
    for (phase, claim), values in shown.items():
        padded = values + [float("nan")] * (len(runs) - len(values))
        found.append(over_seeds("fig4", f"phase {phase}: {claim}", padded, lambda v: v > 0.5, share=True))
    return found


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Slope, intercept and R² of a straight line through what is known; NaN for fewer than three points."""
    known = np.isfinite(y)
    if known.sum() < 3:
        return (float("nan"),) * 3
    slope, intercept = np.polyfit(x[known], y[known], 1)
    rest = y[known] - slope * x[known] - intercept
    return float(slope), float(intercept), 1 - ratio(rest.var(), y[known].var())


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's, of what is known; NaN for fewer than three points, or where all are the same."""
    known = np.isfinite(y)
    if known.sum() < 3 or np.ptp(x[known]) == 0 or np.ptp(y[known]) == 0:
        return float("nan")
    return float(spearmanr(x[known], y[known]).statistic)


def _medians(run: xr.Dataset, phase: str, names: tuple[str, ...]) -> dict[str, float]:
    phases: Phases = find_phases(run)
    rows = zip(phases.found, phase_medians(run, phases, names), strict=True)
    return next((values for each, values in rows if each.name == phase), dict.fromkeys(names, float("nan")))


def _names(phases: Phases) -> tuple[str, ...]:
    return tuple(phase.name for phase in phases.found)


def _median(values: Sequence[float]) -> float:
    """Median of what is known; NaN if less than half is."""
    known = [value for value in values if value == value]
    return float(np.median(known)) if known and 2 * len(known) >= len(values) else float("nan")


def over_seeds(
    figure: str, claim: str, values: Sequence[float], test: Callable[[float], bool], *, share: bool = False
) -> Claim:
    """A claim about a number that each seed has; ``share``: the numbers are 1 and 0, for shown and not."""
    middle, known = _median(values), [value for value in values if value == value]
    if middle != middle:
        return Claim(figure, claim, "", None, tuple(values))
    passed = sum(map(test, known))
    if share:
        return Claim(figure, claim, f"{passed} of {len(values)} runs", bool(2 * passed > len(values)), tuple(values))
    spread = f" ({number(min(known))} to {number(max(known))})" if len(known) > 1 else ""
    ours = f"{number(middle)}{spread}, {passed} of {len(values)} runs"
    return Claim(figure, claim, ours, bool(test(middle)), tuple(values))


def _single(figure: str, claim: str, ours: str, values: np.ndarray, holds: bool | None) -> Claim:
    return Claim(figure, claim, ours, holds, tuple(map(float, values)))


def number(value: float) -> str:
    return f"{value:.0f}" if 100 <= abs(value) < 10_000 else f"{value:.2g}"
