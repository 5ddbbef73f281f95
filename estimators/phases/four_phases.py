"""Phases I to IV of one trajectory: where each begins, and the evidence for it.

What is memorised in III is the error on wrong labels where they are known, else that on all training labels, which is
theirs once phase I is over.
"""

from dataclasses import replace

import numpy as np

from sgdphases.estimators.phases.boundaries import Boundary, Start, crossing, lowest, sequence, start_of, value_at
from sgdphases.estimators.phases.evidence import LEVEL, Errors, lower, said
from sgdphases.estimators.phases.records import NULLS, READINGS, Phases

FAST = 0.1  # share of the fall of an error that is left when its fast phase counts as over
REST = 0.5  # length of phase II over that of the fall before it, at least, where only the end of the run bounds II
ONSET = 0.1  # share of the wrong labels' error that is gone when they count as being learnt
DONE = 0.05  # share of it that is left when they count as learnt
EARLY = 0.75  # share of the wrong labels' highest error that is left when phase I ends, unless they are learnt in it


def four_phases(errors: Errors, rule: float, second: float, *, known: bool) -> Phases:
    """I to IV, as far as they are reached; ``rule`` and ``second`` are the p-values of I, and of II without a mask.

    What is memorised is the error on wrong labels, if ``known``, else that on all, which is theirs once I is over.
    """
    epoch, unlearnt = errors.epoch, errors.wrong if known else errors.train
    mask, whose = (", mask", "on wrong labels") if known else ("", "on training labels")
    smooth, late = errors.smooth(errors.test), errors.smooth(unlearnt)
    least = int(smooth.argmin())
    fall = float(smooth[0] - smooth[least])
    first = crossing(epoch[: least + 1], errors.test[: least + 1], smooth[least] + FAST * fall)
    if first is None or fall <= 0:
        return Phases((), dict.fromkeys(("I", "II", "III", "IV"), "the test error never falls"))
    resting = int(np.searchsorted(epoch, first.epoch))  # the first checkpoint of phase II
    # labels drawn from all classes are right by chance in part, and that part is learnt in phase I
    top = resting + int(late[resting:].argmax()) if known else resting
    plateau = float(late[top] if known else late[least])
    third, fourth, reasons = _memorising(errors, unlearnt, top, plateau, whose)
    if third is not None and not known:
        third = replace(third, p_value=max(third.p_value, second))
    starts = {"I": Start(start_of(epoch), rule, NULLS["I"]), "II": Start(first, second, NULLS["II" + mask])}
    reading = READINGS["mask" if known else "no mask"]
    if third is None:
        reading = READINGS["mask, not yet" if known else "no mask"]
        if not _at_rest(epoch, errors.test, smooth, least, first):
            reasons["II"] = "the run ends while the test error still falls, or hardly after"
            del starts["II"]
            reading = READINGS["rule"]
    elif known and plateau < EARLY * late[: top + 1].max():
        reasons["II"] = "wrong labels are being learnt before the fast fall of the test error is over"
        del starts["II"]
        starts["III"] = Start(first, third.p_value, NULLS["III" + mask])
    else:
        starts["III"] = Start(third.boundary, third.p_value, NULLS["III" + mask])
    fit = (float("nan"), float("nan"))
    if fourth is not None:
        starts["IV"] = Start(fourth.boundary, fourth.p_value, NULLS["IV" + mask])
        fit = fourth.boundary.epoch, value_at(epoch, errors.test, fourth.boundary.epoch)
    return Phases(sequence(starts, float(epoch[-1])), reasons, *lowest(epoch, errors.test), *fit, reading=reading)


def _memorising(
    errors: Errors, unlearnt: np.ndarray, top: int, plateau: float, whose: str
) -> tuple[Start | None, Start | None, dict[str, str]]:
    """Where memorising begins and where it is done, from the checkpoint ``top`` on, and why not where it does not."""
    epoch, late, counts = errors.epoch, errors.smooth(unlearnt), errors.counts
    n = counts.wrong if unlearnt is errors.wrong else counts.train
    onset = crossing(epoch[top:], unlearnt[top:], (1 - ONSET) * plateau)
    done = crossing(epoch[top:], unlearnt[top:], DONE * plateau)
    never = f"the error {whose} stays above {DONE:.0%} of its plateau"
    if onset is None:
        return None, None, {"III": f"the error {whose} stays above {1 - ONSET:.0%} of its plateau", "IV": never}
    last = top + int(late[top:].argmin())
    began = lower(float(late[last]), n, plateau, n, counts.pairs)
    if began > LEVEL:
        reason = f"the error {whose} falls below its plateau, but not by more than sampling noise ({said(began)})"
        return None, None, dict.fromkeys(("III", "IV"), reason)
    train = errors.smooth(errors.train)
    if train[last] >= train[top]:  # a network that forgets gets some wrong labels right by chance
        reason = f"the error {whose} falls below its plateau, but the training error does not fall with it"
        return None, None, dict.fromkeys(("III", "IV"), reason)
    third = Start(onset, began, "")
    if done is None:
        return third, None, {"IV": never}
    start, end = (value_at(epoch, unlearnt, moment.epoch) for moment in (onset, done))
    ended = lower(end, n, start, n, counts.pairs)
    if ended > LEVEL:
        return third, None, {"IV": f"the error {whose} falls within III, but not by more than noise ({said(ended)})"}
    return third, Start(done, ended, ""), {}


def _at_rest(epoch: np.ndarray, test: np.ndarray, smooth: np.ndarray, least: int, first: Boundary) -> bool:
    """Whether the last tenth of the fall of the test error takes as long as a fall that is over lets one expect.

    90 % of the fall up to the end are done shortly before the end, wherever a run ends: a rest counts as one if it
    lasts at least `REST` times the decades that the fall from 10 % to 90 % took.
    """
    begun = crossing(epoch[: least + 1], test[: least + 1], smooth[0] - FAST * (smooth[0] - smooth[least]))
    if begun is None or begun.epoch <= 0 or first.epoch <= begun.epoch:
        return True
    return bool(np.log(epoch[-1] / first.epoch) >= REST * np.log(first.epoch / begun.epoch))
