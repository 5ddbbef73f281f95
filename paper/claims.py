"""A claim of the paper, and its verdict: what all of an interval over seeds says, or nothing."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binom, t

from sgdphases.theory.proportions import share_at_least, share_at_most

TAIL = 0.05  # what may lie beyond either end of an interval
RESAMPLES = 500


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
        None where it is undecided: nothing is known, or the interval holds the threshold.
    values : tuple of float
        What ``ours`` sums up: one number a seed, or one a noise fraction where the claim is about all of them.
    low, high : float
        Interval of the number that is held against the threshold; NaN for a single seed, which has no spread.
    """

    figure: str
    claim: str
    ours: str
    holds: bool | None
    values: tuple[float, ...] = ()
    low: float = float("nan")
    high: float = float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; None for what is unknown or infinite."""
        numbers = {"low": self.low, "high": self.high}
        known = {name: value if np.isfinite(value) else None for name, value in numbers.items()}
        return {**asdict(self), **known, "values": [value if np.isfinite(value) else None for value in self.values]}


def over_seeds(
    figure: str, claim: str, values: Sequence[float], test: Callable[[float], bool], *, share: bool = False
) -> Claim:
    """A claim about a number that each seed has; ``share``: the numbers are 1 and 0, for shown and not.

    ``test`` is to hold within one interval. Its verdict is that of all of the interval of the median
    (`median_interval`), or of the share of runs against a half.
    """
    middle, known = median(values), [value for value in values if value == value]
    if middle != middle:
        return Claim(figure, claim, "", None, tuple(values))
    passed = sum(map(test, known))
    if share:
        low, high = share_interval(passed, len(known))
        unknown = f", {len(values) - len(known)} cannot tell" if len(known) < len(values) else ""
        holds = True if low > 0.5 else False if high < 0.5 else None
        return Claim(figure, claim, f"{passed} of {len(values)} runs{unknown}", holds, tuple(values), low, high)
    spread = f" ({number(min(known))} to {number(max(known))})" if len(known) > 1 else ""
    ours = f"{number(middle)}{spread}, {passed} of {len(values)} runs"
    low, high = median_interval(known)
    inside = [low, high, *(value for value in known if low <= value <= high)]
    inside += list(np.linspace(low, high, 101)) if np.isfinite([low, high]).all() else []
    all_of_it, none_of_it = test(low) and test(high), not any(map(test, inside))
    holds = None if low != low else True if all_of_it else False if none_of_it else None
    return Claim(figure, claim, ours, holds, tuple(values), low, high)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Interval of the median of which independent seeds are a sample, with 95 % on either side.

    From five seeds on between order statistics: the median lies below the lowest of five with 1/32. Two to four cannot
    bound it so, and are taken for normal (Student's t). NaN for one.
    """
    known = np.sort(values)
    n = len(known)
    if n < 2:
        return float("nan"), float("nan")
    if n < 5:
        middle, half = float(known.mean()), float(t.ppf(1 - TAIL, n - 1) * known.std(ddof=1) / np.sqrt(n))
        return middle - half, middle + half
    rank = int(binom.ppf(TAIL, n, 0.5))  # P(fewer than this many below the median) is at most TAIL
    rank -= binom.cdf(rank - 1, n, 0.5) > TAIL
    return float(known[rank - 1]), float(known[n - rank])


def share_interval(passed: int, n: int) -> tuple[float, float]:
    """Interval of the share of runs that show something, with 95 % on either side (Clopper-Pearson)."""
    return share_at_least(passed, n, TAIL), share_at_most(passed, n, TAIL)


def over_fractions(
    claim: str,
    tables: list[list[list[float]]],
    number_of: Callable[..., float],
    test: Callable[[float], bool],
    text: Callable[..., str],
) -> Claim:
    """A claim about a number made of medians over seeds, one or more a noise fraction; seeds are resampled.

    ``tables``: for each variable and each fraction the values of the seeds.
    """
    if not tables:
        return Claim("fig3", claim, "", None)
    curves = [np.array([median(seeds) for seeds in table]) for table in tables]
    values = tuple(map(float, curves[0] - curves[1] if "U-shaped" in claim else curves[0]))
    middle = number_of(*curves)
    if not np.isfinite(middle):
        return Claim("fig3", claim, "", None, values)
    if min(len(seeds) for seeds in tables[0]) < 2:
        return Claim("fig3", claim, f"{text(middle, *curves)}; one seed", None, values)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        chosen = [rng.integers(0, len(seeds), len(seeds)) for seeds in tables[0]]
        again = [
            np.array([median([seeds[k] for k in picks]) for seeds, picks in zip(table, chosen, strict=True)])
            for table in tables
        ]
        drawn.append(number_of(*again))
    known = [value for value in drawn if value == value]
    if len(known) < (1 - TAIL) * RESAMPLES:
        return Claim("fig3", claim, text(middle, *curves), None, values)
    low, high = np.quantile(known, [TAIL, 1 - TAIL])
    share = float(np.mean([test(value) for value in known]))
    holds = True if share >= 1 - TAIL else False if share <= TAIL else None
    ours = f"{text(middle, *curves)} ({number(low)} to {number(high)} over seeds drawn again)"
    return Claim("fig3", claim, ours, holds, values, float(low), float(high))


def median(values: Sequence[float]) -> float:
    """Median of what is known; NaN if less than half is."""
    known = [value for value in values if value == value]
    return float(np.median(known)) if known and 2 * len(known) >= len(values) else float("nan")


def number(value: float) -> str:
    return f"{value:.0f}" if 100 <= abs(value) < 10_000 else f"{value:.2g}"
