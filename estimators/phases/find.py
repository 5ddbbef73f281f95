"""The phases of one trajectory.

Phases are defined by what is learnt (errors), never by the sign of an alignment: that is a signature, which may be
absent although the wrong labels are memorised. If the wrong labels are known, their own error shows when they are
memorised; otherwise the second fall of the training error does, provided the test error rises with it. A phase is
there only if the errors it is read from differ by more than their sampling noise (`evidence`).
"""

from dataclasses import replace

import numpy as np
import xarray as xr

from sgdphases.estimators.phases.boundaries import Start, crossing, sequence, start_of, value_at
from sgdphases.estimators.phases.evidence import (
    LEVEL,
    Errors,
    errors_of,
    least_apart,
    lower,
    most_above_chance,
    rises,
    said,
    too_few,
)
from sgdphases.estimators.phases.four_phases import DONE, four_phases
from sgdphases.estimators.phases.records import MEMORISING, NO_RULE, NULLS, READINGS, UNKNOWN, Phases
from sgdphases.estimators.phases.two_phases import learnt, two_phases

APART = 0.25  # how much later than the clean ones wrong labels are learnt: largest gap of the two errors, at least
LITTLE = 0.1  # right answers beyond chance that may go unseen, at most, if nothing general is said to be learnt
RISE = 0.05  # share of its fall by which the test error rises again, at least, if wrong labels are memorised


def find_phases(trajectory: xr.Dataset, *, use_wrong: bool = True) -> Phases:
    """Phases of a run, from its errors (Feng & Tu 2021, sections 3 and 4).

    With wrong labels known and present: I until 90 % of the fall of the test error to its minimum is done, II until the
    error on wrong labels has fallen 10 % below its plateau, III until 5 % of the plateau are left, IV after. If they
    are unknown, the training error stands in for theirs once phase I is over, with its value at the lowest test error
    for the plateau, and there are such phases only if the test error rises again while it falls; whether that is
    wrong labels or hard samples is left open (``reading``). Without wrong labels: fast learning until 5 % of the first
    training error are left, and exploration after. Where no test error lies below chance: memorising only, or nothing.

    Without a test error, a trajectory that holds the losses of samples is read by `find_phases_from_losses`.

    Single noisy checkpoints are smoothed by a running median; boundaries are interpolated in the logarithm of the
    epoch. The scale of time does not matter. Each phase holds against the sampling noise of its errors at a level of
    1 % (`sgdphases.estimators.phases.evidence`), for which the trajectory's attributes give the numbers of samples;
    where they do not, phases are found without that, p-values are NaN, and ``doubt`` says so.

    Parameters
    ----------
    trajectory : xarray.Dataset
        With coordinate "epoch" and the variables of a run.
    use_wrong : bool
        False ignores which labels are wrong, as if that were unknown.

    Returns
    -------
    Phases
        Empty for regression, which has no errors.
    """
    errors = errors_of(trajectory)
    if np.isnan(errors.test).any() and {"sample_loss", "sample_right", "label"} <= set(trajectory):
        return _from_losses(trajectory, use_wrong)
    if len(errors.epoch) < 3 or np.isnan(errors.train).any():
        return Phases((), {"any phase": "no errors are recorded: regression, or fewer than three checkpoints"})
    known = use_wrong and not (np.isnan(errors.wrong).any() or np.isnan(errors.clean).any())
    found = _found(errors, known)
    if found.found and np.isnan([phase.p_value for phase in found.found]).any():
        return found.doubted(UNKNOWN)
    return found


def _from_losses(trajectory: xr.Dataset, use_wrong: bool) -> Phases:
    """Phases of a record without a test error that holds the losses of samples."""
    from sgdphases.estimators.phases.from_losses import find_phases_from_losses  # loads scipy.stats, which takes long

    losses, right, labels = (trajectory[name].to_numpy() for name in ("sample_loss", "sample_right", "label"))
    mask = trajectory["wrong"].to_numpy() if use_wrong and "wrong" in trajectory else None
    return find_phases_from_losses(trajectory["epoch"].to_numpy(), losses, labels, right=right, wrong=mask)


def _found(errors: Errors, known: bool) -> Phases:
    counts = errors.counts
    if np.isnan(errors.test).any():
        if known:
            return Phases((), {"any phase": "no test error is recorded, which parts I from II"})
        p_value = learnt(errors.smooth(errors.train), counts.train, counts.chance_train, counts.looks)
        if p_value > LEVEL:
            return Phases((), {"any phase": f"the training error does not fall below chance ({said(p_value)})"})
        found = two_phases(errors, p_value, NULLS["fast learning, no test set"])
        return found.doubted("no test error is recorded: whether anything general is learnt is unknown")
    rule = learnt(errors.smooth(errors.test), counts.test, counts.chance_test, counts.looks)
    if rule > LEVEL:
        return _without_rule(errors, rule)
    turned, upward = _turn(errors)
    if known:
        return _with_mask(errors, rule, turned, upward)
    if upward >= RISE and turned > LEVEL:
        return two_phases(errors, rule, NO_RULE).doubted(
            "the test error rises again after its lowest value while the training error falls, but not by more than "
            f"sampling noise explains ({said(turned)}): more test samples may show more phases",
        )
    if upward >= RISE:
        return four_phases(errors, rule, turned, known=False)
    found = two_phases(errors, rule, NO_RULE)
    if upward > 0 and turned <= LEVEL:
        return found.doubted(
            f"the test error rises again by {upward:.2g} of its fall while the training error falls, more than "
            f"sampling noise explains ({said(turned)}): a few samples that no common rule explains, wrong labels or "
            f"hard ones, are memorised, but II to IV are read from a rise of {RISE:g} at least"
        )
    return found


def _without_rule(errors: Errors, rule: float) -> Phases:
    """Where no test error lies below chance by more than its noise: memorising only, or nothing."""
    counts = errors.counts
    smooth = errors.smooth(errors.train)
    last = int(smooth.argmin())
    most = most_above_chance(float(errors.test.min()), counts.test, counts.chance_test)
    fallen = learnt(smooth, counts.train, counts.chance_train, counts.looks)
    apart = lower(float(smooth[last]), counts.train, float(errors.test[last]), counts.test, counts.looks)
    if too_few(counts.test, counts.chance_test, counts.looks):
        reason = f"{counts.test:.0f} test samples are too few to show learning, even if all were right"
    elif fallen > LEVEL:
        reason = f"neither test error ({said(rule)}) nor training error ({said(fallen)}) falls below chance"
    elif apart > LEVEL or most > LITTLE:
        reason = (
            f"the training error falls, the test error does not by more than its sampling noise ({said(rule)}), yet a "
            f"rule that makes up to {most:.2g} more of the answers right than chance would not show in "
            f"{counts.test:.0f} test samples: whether anything general is learnt cannot be decided"
        )
    else:
        start, end = start_of(errors.epoch), float(errors.epoch[-1])
        phase = sequence({MEMORISING: Start(start, max(fallen, apart), NULLS[MEMORISING])}, end)
        chance = f"chance (an error of {counts.chance_test:.3g})"
        missing = f"no test error falls below {chance} and its first value by more than its noise ({said(rule)})"
        fit = crossing(errors.epoch, errors.train, DONE * errors.train[0])
        return Phases(
            phase,
            {"any phase of generalisation": missing},
            t_fit=float("nan") if fit is None else fit.epoch,
            error_fit=float("nan") if fit is None else value_at(errors.epoch, errors.test, fit.epoch),
            reading=READINGS[MEMORISING],
            doubt=f"a rule that makes up to {most:.2g} more of the answers right than chance would not show here",
        )
    return Phases((), {"any phase": reason})


def _turn(errors: Errors) -> tuple[float, float]:
    """p-value of a test error that rises again while the training error falls, and the rise over the fall before.

    The rise is 0 where the training error is small at the lowest test error, or does not fall: nothing is memorised.
    """
    counts, test, train = errors.counts, errors.smooth(errors.test), errors.smooth(errors.train)
    least = int(test.argmin())
    top = least + int(test[least:].argmax())
    if train[least] <= DONE * train[0] or train[top] >= train[least] or not test[0] > test[least]:
        return float("nan"), 0.0
    best = float(errors.test[: top + 1].min())
    if np.isnan(errors.lost[top]):  # an old trajectory: the errors as if of independent samples, which is conservative
        upward = lower(float(test[least]), counts.test, float(test[top]), counts.test, counts.pairs)
    else:
        upward = rises(float(errors.lost[top]), float(errors.test[top]) - best, counts.test, counts.pairs)
    fallen = lower(float(train[top]), counts.train, float(train[least]), counts.train, counts.pairs)
    return max(upward, fallen), float((test[top] - test[least]) / (test[0] - test[least]))


def _with_mask(errors: Errors, rule: float, turned: float, upward: float) -> Phases:
    """Four phases, unless the labels marked as wrong are learnt along with the others."""
    apart = least_apart(errors.clean, errors.wrong, errors.counts)
    gap = float((errors.smooth(errors.wrong) - errors.smooth(errors.clean)).max())
    if apart > LEVEL:
        reason = f"the labels marked as wrong are learnt along with the others ({said(apart)})"
    elif gap < APART * float(errors.wrong[0]):
        reason = f"the labels marked as wrong are learnt along with the others, or hardly later ({said(apart)})"
    else:
        return four_phases(errors, rule, apart, known=True)
    found = two_phases(errors, rule, NO_RULE)
    found = replace(found, not_reached={**found.not_reached, **dict.fromkeys(("II", "III"), reason)})
    if upward >= RISE and not turned > LEVEL:
        return found.doubted(
            "the test error rises again while the training error falls, so some samples are memorised: but they are "
            "not those marked as wrong (use_wrong=False leaves the marks aside)",
        )
    return found


def phase_medians(trajectory: xr.Dataset, phases: Phases, names: tuple[str, ...]) -> list[dict[str, float]]:
    """Median of some variables over the checkpoints of each phase, by name; NaN where it holds none."""
    epoch = trajectory["epoch"].to_numpy()
    table = []
    for phase in phases.found:
        inside = (epoch >= phase.start) & (epoch <= phase.end)
        values = {name: trajectory[name].to_numpy()[inside] for name in names}
        known = {name: v[~np.isnan(v)] for name, v in values.items()}  # gradients are not measured everywhere
        table.append({name: float(np.median(v)) if len(v) else float("nan") for name, v in known.items()})
    return table
