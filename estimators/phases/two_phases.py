"""Fast learning and exploration: the phases of a run in which nothing stands out as learnt late."""

import numpy as np

from sgdphases.estimators.phases.boundaries import Start, crossing, lowest, sequence, start_of, value_at
from sgdphases.estimators.phases.evidence import LEVEL, Errors, below_chance, lower
from sgdphases.estimators.phases.four_phases import DONE
from sgdphases.estimators.phases.records import NULLS, READINGS, Phases


def learnt(smooth: np.ndarray, n: float, chance: float, looks: int) -> float:
    """p-value of an error that falls below chance and below its first value: some networks start below chance."""
    least = float(smooth.min())
    return max(below_chance(least, n, chance, looks), lower(least, n, float(smooth[0]), n, looks))


def two_phases(errors: Errors, rule: float, null: str) -> Phases:
    """Fast learning, with the p-value and null hypothesis given, and exploration if it is reached."""
    end, first = float(errors.epoch[-1]), float(errors.train[0])
    boundary = crossing(errors.epoch, errors.train, DONE * first)
    starts = {"fast learning": Start(start_of(errors.epoch), rule, null)}
    least = lowest(errors.epoch, errors.test)
    if boundary is None:
        missing = {"exploration": f"the training error stays above {DONE:.0%} of its first value"}
        return Phases(sequence(starts, end), missing, *least, reading=_rule_reading(errors))
    counts = errors.counts
    reached = value_at(errors.epoch, errors.train, boundary.epoch)
    fallen = lower(reached, counts.train, first, counts.train, counts.looks)
    starts["exploration"] = Start(boundary, fallen, NULLS["exploration"])
    fit = boundary.epoch, value_at(errors.epoch, errors.test, boundary.epoch)
    return Phases(sequence(starts, end), {}, *least, *fit, reading=_rule_reading(errors))


def _rule_reading(errors: Errors) -> str:
    """What two phases say: a rule, and fitted samples that it does not explain where training ends below the test."""
    counts, train, test = errors.counts, float(errors.train[-1]), float(errors.test[-1])
    fitted = lower(train, counts.train, test, counts.test, 1)
    return READINGS["rule and more"] if fitted <= LEVEL else READINGS["rule"]
