"""What Feng & Tu 2021 say of their figures 1, 3 and 4, judged on runs of ours; a claim is what all figures share.

Thresholds for words such as "about zero" stand here, each beside its claim. What is judged is the median over seeds: a
claim holds, or does not, where all of its interval says so, with 95 % on either side; in between it is undecided.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import xarray as xr
from scipy.stats import spearmanr

from sgdphases.estimators.phases.find import find_phases, phase_medians
from sgdphases.estimators.phases.phase_time import FOUR, TWO
from sgdphases.estimators.phases.records import Phases
from sgdphases.estimators.phases.signatures import claim_limits, signatures
from sgdphases.paper.claims import Claim, number, over_fractions, over_seeds
from sgdphases.theory.ensemble import ratio

_ACTIVITIES = {
    "A, A_c, A_w": ("activity", "activity_c", "activity_w"),
    "A_0c, A_0w": ("directed_activity_c", "directed_activity_w"),
    "A_0": ("directed_activity",),
}
SOLVED = 0.001  # training error from which it counts as zero, or nearly so


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
    four = [float(_names(phases) == FOUR) for rho in noisy for phases in found[rho]]
    two = [float(_names(phases) == TWO) for phases in found.get(0.0, [])]
    apart = [boundary_distance(run, phases) for rho in noisy for run, phases in zip(runs[rho], found[rho], strict=True)]
    span = f"ρ from {min(noisy):g} to {max(noisy):g}" if noisy else "no ρ between 0 and 0.85"
    return [
        over_seeds("fig3", f"all four phases, one after the other, {span}", four, lambda v: v == 1, share=True),
        over_seeds("fig3", "two phases and no more at ρ = 0", two, lambda v: v == 1, share=True),
        over_seeds(
            "fig3",
            "(ours) II, III and IV begin at the same place without knowledge of the wrong labels (within 0.15 decades)",
            apart, lambda v: v < 0.15,
        ),
        *_curve_claims(found, noisy, span),
    ]  # fmt: skip


def _curve_claims(found: Mapping[float, Sequence[Phases]], noisy: list[float], span: str) -> list[Claim]:
    """What figure 3 shows of curves against the noise fraction: medians over seeds, and numbers made of them."""
    everywhere, low = list(found), [rho for rho in found if rho <= 0.4]
    top = max(everywhere, default=float("nan"))

    def growth(t_fit: np.ndarray) -> float:
        return float(t_fit[-1] / t_fit[0])

    def rank(t_fit: np.ndarray) -> float:
        return rank_correlation(np.array(noisy), t_fit) if growth(t_fit) > 1 else min(0.0, growth(t_fit) - 1)

    def judged(claim: str, names: tuple[str, ...], at: list[float], number_of: Callable[..., float],
               test: Callable[[float], bool], text: Callable[..., str], least: int = 1) -> Claim:  # fmt: skip
        tables = [[[getattr(phases, name) for phases in found[rho]] for rho in at] for name in names]
        return over_fractions(claim, tables if len(at) >= least else [], number_of, test, text)

    return [
        judged(
            "the test error is U-shaped for a wide range of ρ (ε_f - ε_m above 0.02 for every 0 < ρ < 0.85)",
            ("error_fit", "error_min"), noisy, lambda fit, least: float((fit - least).min()), lambda v: v > 0.02,
            lambda v, *_: f"least rise {number(v)}, {span}",
        ),
        judged(
            "t_m hardly depends on ρ (largest over smallest below 3)", ("t_min",), noisy,
            lambda t: float(t.max() / t.min()), lambda v: v < 3, lambda v, *_: f"ratio {number(v)}, {span}",
        ),
        judged(
            "t_f grows with ρ (rank correlation above 0.8)", ("t_fit",), noisy, rank, lambda v: v > 0.8,
            lambda v, t: f"ratio {number(growth(t))}, rank correlation {number(v)}, {span}", least=3,
        ),
        judged(
            "ε_f is nearly linear in ρ (R² above 0.95)", ("error_fit",), everywhere,
            lambda e: float(np.copysign((fit := line(np.array(everywhere), e))[2], fit[0])), lambda v: v > 0.95,
            lambda v, e: f"slope {number(line(np.array(everywhere), e)[0])}, R² {abs(v):.3f}", least=3,
        ),
        judged(
            "ε_m stays about the same for small ρ (rises by less than 0.1 up to ρ = 0.4)", ("error_min",), low,
            lambda e: float(e[-1] - e[0]), lambda v: v < 0.1, lambda v, *_: f"rises by {number(v)}", least=2,
        ),
        judged(
            "ε_m approaches ε_f above ρ = 0.85 (at least nine tenths of it)", ("error_min", "error_fit"),
            [top] if top > 0.85 else [], lambda least, fit: float(least[-1] / fit[-1]), lambda v: v >= 0.9,
            lambda v, *_: f"ε_m/ε_f = {number(v)} at ρ = {top:g}",
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
            shown.setdefault((each.phase, each.claim), []).append(each.value)
    for (phase, claim), values in shown.items():
        low, high = claim_limits(phase, claim)
        padded = values + [float("nan")] * (len(runs) - len(values))
        found.append(over_seeds("fig4", f"phase {phase}: {claim}", padded, partial(_between, low, high)))
    return found


def _between(low: float, high: float, value: float) -> bool:
    return low < value < high


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
