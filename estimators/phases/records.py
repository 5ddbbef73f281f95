"""What is found in a trajectory: phases, each with its evidence, and what they say is learnt."""

from dataclasses import asdict, dataclass, replace
from typing import Any

MEMORISING = "memorising only"

NO_RULE = (
    "the test answers are independent of the test labels, or as good as at the start: no test error falls below both "
    "that of a constant answer and the first"
)
NULLS = {
    "fast learning": NO_RULE,
    "fast learning, no test set": "the answers are independent of the training labels",
    "exploration": "the training error does not fall from its first value",
    MEMORISING: "the training error does not fall below that of a constant answer, or is no lower than the test error",
    "I": NO_RULE,
    "II": "the test error does not rise again: right at its lowest and wrong later is as likely as the reverse",
    "II, mask": "the marked labels are a random choice: they are learnt no later than the others",
    "III": "the test error does not rise again, or the training error does not fall while it does",
    "III, mask": "the error on wrong labels does not fall from its plateau",
    "IV": "the training error does not fall from where III begins",
    "IV, mask": "the error on wrong labels does not fall from where III begins",
}
"""Phase -> the null hypothesis that its p-value is about; "mask": where it is known which labels are wrong."""

READINGS = {
    "rule": "a common rule is learnt; nothing shows of samples that it does not explain",
    "rule and more": (
        "a common rule is learnt; samples that no common rule explains are memorised as well, as the training error "
        "ends below the test error, but the test error does not rise with it"
    ),
    "mask": "a common rule is learnt first, the labels marked as wrong are memorised after",
    "mask, not yet": "a common rule is learnt before the labels marked as wrong",
    "no mask": (
        "samples that no common rule explains are memorised after those that one does: wrong labels, or right labels "
        "of overlapping classes and hard samples; errors alone do not say which"
    ),
    "losses": (
        "what the network's answers agree with is learnt first, and samples that they disagree with are memorised "
        "after: wrong labels, or right labels of overlapping classes and hard samples; losses alone do not say which"
    ),
    "rule, no test set": "a common rule is learnt: samples are answered before they are visited for the first time",
    MEMORISING: "labels are memorised one by one; nothing general is learnt that the test set would show",
}
UNKNOWN = "significance unknown: the trajectory does not hold the numbers of samples that its errors are fractions of"


@dataclass(frozen=True)
class Phase:
    """One phase: its name and the epochs it spans; ``earliest`` and ``latest`` bound its start.

    The bounds span the checkpoints between which the unsmoothed errors cross the threshold back and forth.
    ``p_value`` is the evidence: how likely errors of so many samples differ as much as they do where ``null`` holds;
    NaN where the numbers of samples are unknown.
    """

    name: str
    start: float
    end: float
    earliest: float
    latest: float
    p_value: float = float("nan")
    null: str = ""


@dataclass(frozen=True)
class Phases:
    """The phases found, in order, and those the run never reached, each with the reason.

    Attributes
    ----------
    found : tuple of Phase
    not_reached : dict of str
    t_min, error_min : float
        Epoch and value of the lowest test error; NaN where unknown, or not below chance.
    t_fit, error_fit : float
        Epoch at which the training labels are fitted (phase IV begins), and the test error there; NaN if never.
    reading : str
        What the phases say is learnt, with every reading that the errors leave open.
    doubt : str
        What the errors cannot exclude, or why they say less than they seem to; empty where there is no such thing.
    """

    found: tuple[Phase, ...]
    not_reached: dict[str, str]
    t_min: float = float("nan")
    error_min: float = float("nan")
    t_fit: float = float("nan")
    error_fit: float = float("nan")
    reading: str = ""
    doubt: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; None for what is unknown."""
        plain = _known(asdict(self))
        return {**plain, "found": [_known(phase) for phase in plain["found"]]}

    def doubted(self, doubt: str) -> "Phases":
        """The same with one more doubt."""
        return replace(self, doubt="; ".join(filter(None, [self.doubt, doubt])))


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and value != value else value for name, value in values.items()}
