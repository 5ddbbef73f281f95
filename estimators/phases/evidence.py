"""Errors compared with their sampling noise: how likely the change behind a phase is where there is none.

An error read from n samples scatters around that of the population. All tests here are one-sided and exact, and all
p-values are multiplied by the number of checkpoints, or pairs of them, among which the one tested was chosen
(Bonferroni): the lowest of eighty noisy errors lies below chance by luck, too. That holds for the running median that
phases are read from as well, which is the value of one of the checkpoints. NaN is the p-value of what cannot be
tested since the trajectory does not hold the number of samples.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.special import betainc, gammaln  # scipy.stats takes as long to load as all else that draws a run

from sgdphases.estimators.phases.boundaries import smoothed
from sgdphases.theory.proportions import share_at_most

LEVEL = 0.01  # largest p-value of a phase; four tests at most decide on a run, so it errs in 4 % at most
LIMIT = 0.95  # confidence of an upper limit


@dataclass(frozen=True)
class Counts:
    """How many samples the errors of a trajectory are fractions of; NaN where it does not say.

    Attributes
    ----------
    train, test, wrong, clean : float
        Numbers of samples: training and test set, and the populations of wrong and clean labels.
    chance_train, chance_test : float
        Error of always answering the set's commonest class.
    looks : int
        Checkpoints.
    """

    train: float
    test: float
    wrong: float
    clean: float
    chance_train: float
    chance_test: float
    looks: int

    @property
    def pairs(self) -> int:
        """Pairs of an earlier and a later checkpoint."""
        return self.looks * (self.looks - 1) // 2


def counts_of(trajectory: xr.Dataset) -> Counts:
    """The numbers of samples, from a trajectory's attributes and its noise fraction."""
    names = ("n_samples", "n_test", "chance_error_train", "chance_error")
    train, test, chance_train, chance_test = (float(trajectory.attrs.get(name, np.nan)) for name in names)
    fraction = float(trajectory["noise_fraction"][0]) if "noise_fraction" in trajectory else float("nan")
    wrong = float(np.round(train * fraction))
    return Counts(train, test, wrong, train - wrong, chance_train, chance_test, trajectory.sizes["step"])


@dataclass(frozen=True, eq=False)
class Errors:
    """The errors of a trajectory, and the numbers of samples they are fractions of."""

    epoch: np.ndarray
    train: np.ndarray
    test: np.ndarray
    clean: np.ndarray
    wrong: np.ndarray
    lost: np.ndarray
    counts: Counts

    def smooth(self, values: np.ndarray) -> np.ndarray:
        return smoothed(self.epoch, values)


def errors_of(trajectory: xr.Dataset) -> Errors:
    epoch, train, test, clean, wrong = (
        trajectory[name].to_numpy() for name in ("epoch", "train_error", "test_error", "error_c", "error_w")
    )
    lost = trajectory["test_lost"].to_numpy() if "test_lost" in trajectory else np.full(len(epoch), np.nan)
    return Errors(epoch, train, test, clean, wrong, lost, counts_of(trajectory))


def below_chance(error: float, n: float, chance: float, comparisons: int) -> float:
    """p-value of an error below chance.

    Null hypothesis: the answers are independent of the labels. Then each is right with a probability of at most
    ``1 - chance``, that of the commonest class, and the number of right ones lies below a binomial one.

    Parameters
    ----------
    error : float
        The lowest of ``comparisons`` errors.
    n : float
        Samples it is a fraction of.
    chance : float
        Error of always answering the commonest class.
    comparisons : int

    Returns
    -------
    float
    """
    if np.isnan([error, n, chance]).any():
        return float("nan")
    right = round(n * (1 - error))
    return min(1.0, comparisons * _at_least(right, n, 1 - chance))


def unseen(right: float, n: float, seen: float, known: float, comparisons: int) -> float:
    """p-value of right answers on samples that SGD has not visited yet, during its first epoch.

    Null hypothesis: only visited samples are learnt. Then each of the ``n`` is right with a probability of at most
    ``seen + (1 - seen) known``: a random share ``seen`` of them has been visited, and all those may be right.

    Parameters
    ----------
    right : float
        The fraction of right answers among all ``n``, visited or not; the highest of ``comparisons``.
    n : float
        Samples, a random choice of the training set or all of it.
    seen : float
        Share of the training set that SGD has visited.
    known : float
        Share of right answers by chance, or of the network at the start.
    comparisons : int

    Returns
    -------
    float
    """
    if np.isnan([right, n, seen, known]).any():
        return float("nan")
    return min(1.0, comparisons * _at_least(round(n * right), n, min(1.0, seen + (1 - seen) * known)))


def lower(after: float, n_after: float, before: float, n_before: float, comparisons: int) -> float:
    """p-value of one error below another: Fisher's exact test.

    Null hypothesis: both are errors of samples drawn from one population. Where they are errors of the same samples
    at two checkpoints, or of clean and wrong ones under a mask that is drawn at random, the test is conservative or
    exact: errors of one network at two moments scatter together.

    Parameters
    ----------
    after, before : float
        Errors; the first is held to be the lower one.
    n_after, n_before : float
        Samples they are fractions of.
    comparisons : int

    Returns
    -------
    float
    """
    if np.isnan([after, n_after, before, n_before]).any() or not n_after * n_before:
        return float("nan")
    few, many = round(n_after * after), round(n_before * before)
    return min(1.0, comparisons * _at_most_drawn(few, n_after + n_before, few + many, n_after))


def rises(lost: float, rise: float, n: float, comparisons: int) -> float:
    """p-value of a test error that has risen, from the test samples that changed sides: McNemar's exact test.

    Null hypothesis: to be right before and wrong now is as likely as the reverse.

    Parameters
    ----------
    lost : float
        Fraction of the test samples that were right before, and are wrong now.
    rise : float
        By how much the error is higher now: ``lost`` less the fraction gained.
    n : float
        Test samples.
    comparisons : int

    Returns
    -------
    float
    """
    if np.isnan([lost, rise, n]).any():
        return float("nan")
    out, back = round(n * lost), round(n * (lost - rise))
    return min(1.0, comparisons * _at_least(out, out + back, 0.5))


def least_apart(error_c: np.ndarray, error_w: np.ndarray, counts: Counts) -> float:
    """p-value of wrong labels that are learnt later than clean ones, at the checkpoint that shows it best.

    Null hypothesis: the mask is drawn at random, and has nothing to do with what is learnt when.
    """
    each = [
        lower(c, counts.clean, w, counts.wrong, counts.looks) for c, w in zip(error_c, error_w, strict=True) if c < w
    ]
    return min(each, default=float("nan") if np.isnan(counts.wrong) else 1.0)


def most_above_chance(error: float, n: float, chance: float) -> float:
    """Upper limit, at `LIMIT`, of the share of right answers above that of the commonest class (Clopper-Pearson)."""
    right = round(n * (1 - error))
    return max(0.0, share_at_most(right, n, 1 - LIMIT) - (1 - chance))


def too_few(n: float, chance: float, comparisons: int) -> bool:
    """Whether so few test samples cannot show learning, even if all are right."""
    return below_chance(0.0, n, chance, comparisons) > LEVEL


def said(p_value: float) -> str:
    """A p-value as a message says it."""
    return "p unknown" if p_value != p_value else "p < 1e-12" if p_value < 1e-12 else f"p = {p_value:.2g}"


def _at_least(count: float, n: float, chance: float) -> float:
    """Probability that ``count`` or more of n independent trials succeed, each with probability ``chance``."""
    if count <= 0:
        return 1.0
    return 0.0 if count > n else float(betainc(count, n - count + 1, chance))


def _at_most_drawn(count: float, n: float, marked: float, drawn: float) -> float:
    """Probability that at most ``count`` of ``drawn`` samples, taken from n without replacement, are marked ones.

    The probability of ``count`` itself, times the sum of its ratios to those below it, all in logarithms.
    """
    least = max(0.0, drawn + marked - n)
    if count < least:
        return 0.0
    if count >= min(drawn, marked):
        return 1.0
    own = _log_choices(marked, count) + _log_choices(n - marked, drawn - count) - _log_choices(n, drawn)
    k = np.arange(count, least, -1.0)
    ratios = np.log(k * (n - marked - drawn + k)) - np.log((marked - k + 1) * (drawn - k + 1))
    below = np.concatenate([[0.0], np.cumsum(ratios)])
    top = below.max()
    return min(1.0, float(np.exp(own + top + np.log(np.exp(below - top).sum()))))


def _log_choices(n: float, k: float) -> float:
    return float(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))
