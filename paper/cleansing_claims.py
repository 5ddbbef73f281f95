"""What Feng & Tu 2021 say of cleansing (section 5, figure 6), and what we ask of ours, judged on records of studies.

A record is what `sgdphases.sim.cleansing.study.measure_cleansing` gives: one seed at one noise fraction. Thresholds
stand here, each beside its claim. What is judged is the median over seeds.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from sgdphases.estimators.phases.find import find_phases
from sgdphases.paper.claims import Claim, number, over_seeds

HALF = 0.5  # noise fraction of the paper's figures 3A, 4 and 5, and of panels A to C of figure 6
MOST_NOISE = 0.8  # up to which the paper wins back more than half
LEAST_GAINS = {0.5: 0.85, 0.7: 0.75, 0.8: 0.65}  # ours: noise fraction up to which Q is to exceed this
LEAST_AREAS = {0.5: 0.985, 0.8: 0.93}  # ours: noise fraction at which the area under ROC is to exceed this
FIGURE = "fig6"


def cleansing_claims(records: Mapping[float, Sequence[xr.Dataset]]) -> list[Claim]:
    """Figure 6: the paper's claims on losses, their mixture, t_c and Q; then what we ask of our own method.

    Parameters
    ----------
    records : mapping of float to sequence of xarray.Dataset
        Noise fraction, and records that differ in their seed.
    """
    half = next((several for rho, several in records.items() if np.isclose(rho, HALF)), [])
    noisy = {rho: several for rho, several in sorted(records.items()) if 0 < rho <= MOST_NOISE + 1e-9}
    at = f"ρ = {HALF:g}: "

    def of_half(claim: str, measure: Callable[[xr.Dataset], float], test: Callable[[float], bool]) -> Claim:
        return over_seeds(FIGURE, at + claim, [measure(record) for record in half], test)

    return [
        of_half(
            "losses of right and wrong labels are distributed alike at the start (area under ROC within 0.05 of 0.5)",
            lambda record: float(record["separation"][0]), lambda v: abs(v - 0.5) < 0.05,
        ),
        over_seeds(
            FIGURE, at + "their separation L_w - L_c is largest in phase II",
            [_in_two(record, widest(record)) for record in half], lambda v: v == 1, share=True,
        ),
        of_half(
            "in phase IV both lie near zero (L_c and L_w below 0.1 nats at the end)",
            lambda record: max(float(record["loss_c"][-1]), float(record["loss_w"][-1])), lambda v: v < 0.1,
        ),
        of_half(
            "in phase IV they are indistinguishable again (area under ROC below 0.6 at the end)",
            lambda record: float(record["separation"][-1]), lambda v: v < 0.6,
        ),
        of_half(
            "two Gaussians fit the losses well in phase II (median distance of the distributions below 0.05)",
            lambda record: _median_in_two(record, record["fit_distance"].to_numpy()), lambda v: v < 0.05,
        ),
        of_half(
            "their means agree with L_c and L_w in phase II (median miss of the worse one, by L_w - L_c, below 0.1)",
            lambda record: _median_in_two(record, _miss(record)), lambda v: v < 0.1,
        ),
        _everywhere(
            "t_c, where the gap of the fitted means is largest, lies in phase II",
            noisy, lambda record: _in_two(record, gap_epoch(record)), lambda v: v > 0.5, "least share",
        ),
        of_half(
            "both choices of l_c do about the same (under 2 % of the samples in between)",
            lambda record: float(record["between_thresholds"]), lambda v: v < 0.02,
        ),
        of_half(
            "stopping at t_c and going on without wrong labels do about the same (Q within 0.1)",
            lambda record: float(record["cleansing_gain_continue"] - record["cleansing_gain_stop"]),
            lambda v: abs(v) < 0.1,
        ),
        _gain_claim("", noisy, MOST_NOISE, 0.5),
        *(_gain_claim("(ours) ", noisy, rho, least) for rho, least in LEAST_GAINS.items()),
        _everywhere(
            "(ours) t_c, from the ranks of the losses alone, lies in phase II",
            noisy, lambda record: _in_two(record, float(record["t_clean"])), lambda v: v > 0.5, "least share",
        ),
        _everywhere(
            "(ours) the test error at t_c is near the lowest of the run (within 0.05)",
            noisy, _excess, lambda v: v < 0.05, "largest",
        ),
        *(_area_claim(noisy.get(rho, []), rho, least) for rho, least in LEAST_AREAS.items()),
        over_seeds(
            FIGURE, "(ours) ρ = 0: hardly a label is flagged (under 2 %)",
            [float(record["flagged"]) for record in records.get(0.0, [])], lambda v: v < 0.02,
        ),
    ]  # fmt: skip


def widest(record: xr.Dataset) -> float:
    """The epoch at which L_w - L_c is largest."""
    return float(record["epoch"][int((record["loss_w"] - record["loss_c"]).to_numpy().argmax())])


def gap_epoch(record: xr.Dataset) -> float:
    """The paper's t_c: the epoch of the probe at which m_w - m_c is largest; NaN where nothing was fitted."""
    gap = (record["mean_w"] - record["mean_c"]).to_numpy()
    return float(record["epoch"][int(gap.argmax())]) if np.isfinite(gap).all() else float("nan")


def phase_two(record: xr.Dataset) -> tuple[float, float] | None:
    """First and last epoch of phase II, as it is found with the wrong labels known; None where there is none."""
    return next(((each.start, each.end) for each in find_phases(record).found if each.name == "II"), None)


def _in_two(record: xr.Dataset, epoch: float) -> float:
    span = phase_two(record)
    return float("nan") if span is None or epoch != epoch else float(span[0] <= epoch <= span[1])


def _median_in_two(record: xr.Dataset, values: np.ndarray) -> float:
    """The median over the probes of phase II."""
    span, epoch = phase_two(record), record["epoch"].to_numpy()
    inside = np.zeros(len(epoch), bool) if span is None else (span[0] <= epoch) & (epoch <= span[1])
    return float(np.median(values[inside])) if inside.any() else float("nan")


def _miss(record: xr.Dataset) -> np.ndarray:
    """How far the fitted means lie from the mean losses, the worse of both, by the distance of these; shape (T,)."""
    mean_c, mean_w, loss_c, loss_w = (record[name].to_numpy() for name in ("mean_c", "mean_w", "loss_c", "loss_w"))
    gap = np.where(loss_w > loss_c, loss_w - loss_c, np.nan)
    return np.asarray(np.maximum(abs(mean_c - loss_c), abs(mean_w - loss_w)) / gap)


def _excess(record: xr.Dataset) -> float:
    """By how much the test error at t_c exceeds the lowest of all probes."""
    return 1 - float(record["accuracy_stop"]) - float(record["test_error"].min())


def _area_claim(records: Sequence[xr.Dataset], rho: float, least: float) -> Claim:
    claim = f"(ours) ρ = {rho:g}: losses around t_c separate wrong labels (area under ROC above {least:g})"
    return over_seeds(FIGURE, claim, [float(record["roc_area"]) for record in records], lambda v: v > least)


def _gain_claim(whose: str, noisy: Mapping[float, Sequence[xr.Dataset]], most: float, least: float) -> Claim:
    """Q of going on from t_c exceeds a bound at every noise fraction up to one that must be there, too."""
    own = {rho: several for rho, several in noisy.items() if rho <= most + 1e-9}
    known = own if any(np.isclose(rho, most) for rho in own) else {}
    return _everywhere(
        f"{whose}Q exceeds {least:g} up to ρ = {most:g}", known,
        lambda record: float(record["cleansing_gain_continue"]), lambda v: v > least, "least",
    )  # fmt: skip


def _everywhere(
    claim: str,
    records: Mapping[float, Sequence[xr.Dataset]],
    measure: Callable[[xr.Dataset], float],
    test: Callable[[float], bool],
    worst: str,
) -> Claim:
    """A claim about every noise fraction: medians over seeds ("share": means), of which the worst is given."""
    middles: dict[float, float] = {}
    for rho, several in records.items():
        each = np.array([measure(record) for record in several])
        known = each[np.isfinite(each)]
        enough = len(known) > 0 and 2 * len(known) >= len(each)
        middles[rho] = float((np.mean if "share" in worst else np.median)(known)) if enough else float("nan")
    values = tuple(middles.values())
    if not values or not np.isfinite(values).all():
        return Claim(FIGURE, claim, "", None, values)
    place = (max if worst == "largest" else min)(middles, key=lambda rho: middles[rho])
    fails = [f"{rho:g}" for rho, value in middles.items() if not test(value)]
    ours = f"{worst} {number(middles[place])}, at ρ = {place:g}; ρ from {min(middles):g} to {max(middles):g}"
    if fails:
        ours += f"; not at {', '.join(fails)}"
    return Claim(FIGURE, claim, ours, not fails, values)
