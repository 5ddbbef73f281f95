"""Labels held against networks that have not seen them: is a label one more answer like theirs, or against them?

Two networks that share no sample agree about a third one's class as often as either agrees with its label, if labels
are right: what a network misses is mostly by chance of what it was trained on, and another network misses it elsewhere
(Jiang, Nagarajan, Baek & Kolter, "Assessing generalization of SGD via disagreement", 2022). Networks that learn before
they memorise do not repeat wrong labels, so with these they agree with one another more often than with the labels.

They also do where inputs do not determine the class: where two classes overlap, networks agree on the boundary, and
right labels lie on either side of it. Such contradictions vanish where networks are surest, and so do those of mistakes
that follow the input: the two cannot be told apart. Wrong labels that have nothing to do with the input are
contradicted as often where networks are surest as anywhere.

Wrong labels that depend on the class alone, as a 7 that is read for some of the 1s, make networks unsure of all samples
of this class. Among those that are answered this class the surest are contradicted nearly as often as others, though,
while right labels of hard samples are not. (But where no input tells two classes apart, they are.)

Networks that have learnt little agree because they give few classes to most samples. So nothing is concluded unless
they give the label significantly more often than the largest class would be, and each class about as often as it is
labelled.
"""

from dataclasses import dataclass

import numpy as np

from sgdphases.estimators.errors import InputError
from sgdphases.theory.proportions import share_at_least, share_at_most

SEEN = 3.0  # standard errors of the excess: 0.1 % of sets whose labels behave like one more network's answers
LEAST_EXCESS = 0.015  # of it, by the networks' agreement: so few contradictions may be of other origin
MOST_SHIFTED = 0.15  # total variation between the classes given and the labels: beyond, the networks are no annotators
LEAST_ASKED = 100  # samples to say so
LEAST_AGREEMENT = 0.6  # of the networks, from which on how sure they are of a class says something
SUREST = 0.2  # share of the samples that counts as those about which the networks are surest
FOLLOWS = 0.4  # contradictions among these by those among all, below which they may follow the input
EVEN = 0.8  # the same by the excess, from which on they do not: few wrong labels among many hard samples
LEVEL = 0.9  # contradictions among the surest tenth, at most, by those among the surer half, above which they are level
DEVIATIONS, TAIL = 1.96, 0.025  # of a bound at 97.5 %


@dataclass(frozen=True)
class Surest:
    """How many labels are contradicted among the samples about which networks are surest.

    Attributes
    ----------
    half, fifth, tenth : float
        Share of them among the surer half, the surest fifth and the surest tenth.
    fifth_low, tenth_low, tenth_high : float
        Bounds at 97.5 % of that among the fifth, and among the surest tenth.
    """

    half: float
    fifth: float
    tenth: float
    fifth_low: float
    tenth_low: float
    tenth_high: float

    @property
    def low(self) -> float:
        """Lower bound, by whichever is lower: right labels of overlapping classes are rarer among the tenth.

        And may be so once more among those that networks would be surer of yet, by as much as from half to tenth.
        """
        return max(0.0, min(self.fifth_low, self.tenth_low - max(0.0, self.half - self.tenth)))

    @property
    def is_level(self) -> bool:
        """Whether contradictions do not get rarer the surer networks are, as they do where right labels are hard."""
        return self.tenth_high >= LEVEL * self.half


@dataclass(frozen=True)
class Contradiction:
    """How labels compare with what networks say that have not seen them.

    Attributes
    ----------
    agreement : float
        Share of the samples to which two networks give the same class.
    given : float
        Share to which one of them gives the label, on average.
    error : float
        Standard error of the difference of the two.
    disagreed : float
        Share of the labels that both together, by their mean probability, do not give.
    overall, by_class : Surest
        The same among the samples about which they are surest, and among those of each class that they answer about
        which they are surest.
    shifted : float
        Total variation distance between how often each class is given by them, and is a label.
    largest : float
        Share of the most frequent label.
    n_samples : int
    """

    agreement: float
    given: float
    error: float
    disagreed: float
    overall: Surest
    by_class: Surest
    shifted: float
    largest: float
    n_samples: int

    @property
    def excess(self) -> float:
        """How much more often networks agree with one another than with the labels."""
        return self.agreement - self.given

    @property
    def surest(self) -> float:
        """Share of the labels contradicted among the fifth of the samples about which networks are surest."""
        return self.overall.fifth

    @property
    def beyond(self) -> float:
        """The excess by the networks' agreement: about the share of wrong labels that they do not repeat."""
        return self.excess / self.agreement if self.agreement else 0.0

    @property
    def has_learnt(self) -> bool:
        """Whether the networks' answers compare with labels: they know more than which classes there are."""
        error = np.sqrt(self.largest * (1 - self.largest) / self.n_samples)
        return bool(self.given > self.largest + SEEN * error and self.shifted <= MOST_SHIFTED)

    @property
    def _is_heard(self) -> bool:
        """Whether anything is concluded from what they say."""
        return self.n_samples >= LEAST_ASKED and self.has_learnt

    @property
    def agrees_more(self) -> bool:
        """Whether they do so by more than chance explains, whatever they have learnt."""
        return bool(self.excess > SEEN * self.error)

    @property
    def is_seen(self) -> bool:
        """Whether that speaks of wrong labels: networks that have learnt something, and not by a little only."""
        return self._is_heard and self.agrees_more and self.beyond >= LEAST_EXCESS

    @property
    def follows_input(self) -> bool:
        """Whether contradictions, and those that are no hard samples, vanish where networks are surest."""
        return self.surest < FOLLOWS * self.disagreed and self.surest < EVEN * self.beyond

    @property
    def is_even(self) -> bool:
        """Whether the surest of each class are contradicted about as often as others.

        It shows even where networks have learnt so many of the wrong labels that they agree with one another no more
        often than with the labels.
        """
        if not self._is_heard or self.agreement < LEAST_AGREEMENT:
            return False
        return self.by_class.is_level and self.by_class.fifth_low >= FOLLOWS * self.disagreed > 0

    @property
    def follows_class(self) -> bool:
        """Whether that holds in each class only: labels of some are wrong, or the inputs do not tell these apart."""
        return self.is_even and not self.gives_number

    @property
    def gives_number(self) -> bool:
        """Whether the share contradicted among the surest is that of the wrong labels: not if these follow the input.

        So it is where they are contradicted about as often by networks that are sure as by others, and no less the
        surer these are. Else they may be a few wrong labels among many hard samples, or the few mistakes of many that
        networks have not learnt, or right labels of classes that overlap everywhere.
        """
        return self.overall.is_level and self.surest >= FOLLOWS * self.disagreed

    @property
    def fraction(self) -> float:
        """How many labels count as contradicted.

        The share among the surest if it is a number, all if contradictions follow the input or the class, and else the
        share among the surest of each class, as the surest of all may be of easy classes only, or as many as networks
        agree on against the labels, if these are more.
        """
        if self.gives_number:
            return self.surest
        if self.follows_input or self.follows_class:
            return self.disagreed
        return max(self.by_class.fifth, self.beyond)

    @property
    def low(self) -> float:
        """Lower bound of the share of wrong labels at 97.5 %; 0 where right labels of overlapping classes will do."""
        return min(self.overall.low, self.low_if_determined) if self.gives_number else 0.0

    @property
    def low_if_determined(self) -> float:
        """The same where the inputs determine the class: hard samples alone do not make networks agree more often."""
        return max(0.0, (self.excess - DEVIATIONS * self.error) / self.agreement) if self.is_seen else 0.0


def contradiction(probability: np.ndarray, labels: np.ndarray) -> Contradiction:
    """Compare labels with the answers of two networks.

    Parameters
    ----------
    probability : ndarray, shape (2, N, K)
        Of each class for each sample, by two networks that have not seen it and share no sample with each other.
    labels : ndarray of int, shape (N,)
        As given, 0..K-1.

    Returns
    -------
    Contradiction

    Raises
    ------
    InputError
        If shapes do not fit, or a probability is not finite.
    """
    probability, labels = np.asarray(probability, dtype=float), np.asarray(labels)
    if probability.ndim != 3 or len(probability) != 2 or probability.shape[1:2] != labels.shape or not labels.size:
        raise InputError(
            f"probabilities of shape {probability.shape} do not go with labels of shape {labels.shape}: give (2, N, K) "
            "and (N,)."
        )
    if not np.isfinite(probability).all():
        raise InputError("probabilities hold NaN or infinity: ask both networks about every sample.")
    n, both = len(labels), probability.mean(axis=0)
    first, second = probability.argmax(axis=2)
    given = ((first == labels) + (second == labels).astype(float)) / 2
    excess = (first == second) - given
    answers, classes = both.argmax(axis=1), probability.shape[2]
    against, order = answers != labels, np.argsort(-both.max(axis=1), kind="stable")
    groups = [order[answers[order] == k] for k in range(classes)]
    labelled = np.bincount(labels, minlength=classes) / n
    shift = np.bincount(np.concatenate([first, second]), minlength=classes) / (2 * n) - labelled
    return Contradiction(
        agreement=float((first == second).mean()),
        given=float(given.mean()),
        error=float(excess.std(ddof=1) / np.sqrt(n)) if n > 1 else float("inf"),
        disagreed=float(against.mean()),
        overall=_surest(against, [order]),
        by_class=_surest(against, [group for group in groups if len(group)]),
        shifted=float(np.abs(shift).sum() / 2),
        largest=float(labelled.max()),
        n_samples=n,
    )


def _surest(against: np.ndarray, groups: list[np.ndarray]) -> Surest:
    """Of samples in groups, each ordered by sureness: the surest half, fifth and tenth of every group together."""
    half, fifth, tenth = (
        against[np.concatenate([group[: max(1, round(share * len(group)))] for group in groups])]
        for share in (0.5, SUREST, SUREST / 2)
    )
    return Surest(
        half=float(half.mean()),
        fifth=float(fifth.mean()),
        tenth=float(tenth.mean()),
        fifth_low=share_at_least(int(fifth.sum()), len(fifth), TAIL),
        tenth_low=share_at_least(int(tenth.sum()), len(tenth), TAIL),
        tenth_high=share_at_most(int(tenth.sum()), len(tenth), TAIL),
    )
