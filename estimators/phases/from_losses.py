"""Phases without a test set: from the losses of training samples along a run."""

from dataclasses import replace
from typing import Any

import numpy as np

from sgdphases.estimators.cleansing.consensus import FIRST_EPOCH, LEAST_PROBES
from sgdphases.estimators.cleansing.from_losses import find_wrong_labels_from_losses
from sgdphases.estimators.errors import InputError
from sgdphases.estimators.phases.evidence import LEVEL, Counts, Errors, least_apart, said, unseen
from sgdphases.estimators.phases.four_phases import four_phases
from sgdphases.estimators.phases.records import NULLS, READINGS, Phase, Phases
from sgdphases.estimators.phases.two_phases import learnt, two_phases

SURE = float(np.log(2))  # nats; a label that the network holds for likelier than not has a smaller loss
LASTING = 3  # records, one after the other, at which samples learnt late are seen to be memorised
LEARNT = 0.25  # share of the first error on all other samples that may be left then, at most
UNTESTED = (
    "no test samples: whether what is learnt first holds beyond the training set was not tested, and does not show "
    "in the first epoch either"
)
CHOSEN = "the samples learnt late were chosen by their losses, so that their phases have no p-value"


def find_phases_from_losses(
    epochs: Any, sample_loss: Any, labels: Any = None, *, right: Any = None, wrong: Any = None
) -> Phases:
    """Phases of a run without test samples, from the losses of training samples (Feng & Tu 2021, secs. 3 to 5).

    The labels that `find_wrong_labels_from_losses` flags take the place of the wrong ones, and the error on all others
    that of the test error: I until 90 % of its fall is done, II until the error on those flagged has fallen 10 % below
    its plateau, III until 5 % of the plateau are left, IV after. Where nothing is flagged there are fast learning and
    exploration, as in `find_phases`.

    In the first epoch samples that SGD has not yet visited are test samples. If more answers are right there than all
    the visited ones and chance make up for, a common rule is learnt (a binomial test); otherwise ``doubt`` says that
    generalisation was not tested. Training has to visit each sample once an epoch, in an order of its own.

    Parameters
    ----------
    epochs : array_like, shape (T,), increasing
        When the losses were recorded, in passes over the training set; those before the first epoch count, too.
    sample_loss : array_like, shape (T, N)
        The cross-entropy of each sample under its given label, in nats; without dropout and augmentation.
    labels : array_like of int or text, shape (N,), or None
        As given; without them nothing can be said of chance.
    right : array_like of bool, shape (T, N), or None
        Whether the network gives a sample its label; None takes a probability above one half for that.
    wrong : array_like of bool, shape (N,), or None
        Wrong labels, where they are known.

    Returns
    -------
    Phases

    Raises
    ------
    InputError
        If shapes do not fit, or losses are not finite or below zero.
    """
    when, losses, answers, given, mask = _checked(epochs, sample_loss, labels, right, wrong)
    if len(when) < 3:
        return Phases((), {"any phase": "fewer than three records"})
    return _phases(when, answers, given, mask, mask if mask is not None else _late(when, losses, given))


def _checked(epochs: Any, sample_loss: Any, labels: Any, right: Any, wrong: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Epochs, losses, right answers, labels and mask as arrays that fit together; raises InputError."""
    when, losses = np.asarray(epochs, dtype=float), np.asarray(sample_loss, dtype=float)
    answers = losses < SURE if right is None else np.asarray(right, dtype=bool)
    mask = None if wrong is None else np.asarray(wrong, dtype=bool)
    given = None if labels is None else np.asarray(labels)
    if losses.ndim != 2 or when.shape != losses.shape[:1] or answers.shape != losses.shape:
        raise InputError(
            f"epochs {when.shape}, sample losses {losses.shape} and right answers {answers.shape} do not fit: give "
            "(T,), (T, N) and (T, N)."
        )
    for name, values in (("labels", given), ("wrong", mask)):
        if values is not None and values.shape != losses.shape[1:]:
            raise InputError(f"{name} of shape {values.shape} do not fit sample losses of shape {losses.shape}.")
    return when, losses, answers, given, mask


def _late(when: np.ndarray, losses: np.ndarray, labels: np.ndarray | None) -> np.ndarray | None:
    """Samples whose labels stand out, shape (N,), bool; None where none do, or too early to say."""
    if (when >= FIRST_EPOCH).sum() < LEAST_PROBES:
        return None
    found = find_wrong_labels_from_losses(when, losses, labels)
    return found.flagged if found.has_noise else None


def _phases(
    when: np.ndarray,
    answers: np.ndarray,
    given: np.ndarray | None,
    mask: np.ndarray | None,
    late: np.ndarray | None,
) -> Phases:
    """Phases, with the samples learnt late: those of the mask, or those that stand out."""
    rule = _rule(when, answers, given)
    if late is None or not 0 < late.sum() < len(late):
        return _without_late(when, answers, given, rule)
    errors = _errors(when, answers, given, late)
    second = float("nan")
    if mask is not None:
        second = least_apart(errors.clean, errors.wrong, errors.counts)
        if second > LEVEL:
            return _without_late(when, answers, given, rule)
    phases = replace(
        four_phases(errors, rule, second, known=True),
        t_min=float("nan"), error_min=float("nan"), error_fit=float("nan"),
        reading=READINGS["losses" if mask is None else "mask"],
    )  # fmt: skip
    if mask is None:  # p-values of tests on samples that the same losses have chosen would flatter
        phases = replace(phases, found=tuple(_untested(phase) for phase in phases.found)).doubted(CHOSEN)
    return phases if rule <= LEVEL else phases.doubted(UNTESTED)


def is_memorising(epochs: Any, sample_loss: Any, labels: Any = None, *, right: Any = None) -> bool:
    """Whether phase II is over: samples learnt late are being learnt, for `LASTING` records, and the others are.

    Without a test set a slow phase I looks alike: so the error on all other samples has to be below a quarter of its
    first value as well.

    Parameters
    ----------
    epochs, sample_loss, labels, right
        As for `find_phases_from_losses`.

    Returns
    -------
    bool

    Raises
    ------
    InputError
        As `find_phases_from_losses` does.
    """
    when, losses, answers, given, _ = _checked(epochs, sample_loss, labels, right, None)
    others = np.zeros(1)
    for end in range(len(when), len(when) - LASTING, -1):
        late = _late(when[:end], losses[:end], given)
        if late is None:
            return False
        phases = _phases(when[:end], answers[:end], given, None, late)
        if not phases.found or phases.found[-1].name not in ("III", "IV"):
            return False
        if end == len(when):
            others = 1 - answers[:, ~late].mean(axis=1)
    return bool(others[-1] <= LEARNT * others[0])


def _untested(phase: Phase) -> Phase:
    return phase if phase.name == "I" else replace(phase, p_value=float("nan"))


def _rule(epoch: np.ndarray, answers: np.ndarray, labels: np.ndarray | None) -> float:
    """p-value of a rule that answers samples not yet visited, in the first epoch; NaN where it cannot be tested."""
    first = epoch < 1
    if labels is None or not first.any():
        return float("nan")
    n, looks = answers.shape[1], int(first.sum())
    shares, chance = answers[first].mean(axis=1), _chance(labels)
    begun = max(1 - chance, float(shares[0]))  # a pretrained network is above chance at the start
    return min(unseen(share, n, seen, begun, looks) for share, seen in zip(shares, epoch[first], strict=True))


def _errors(epoch: np.ndarray, answers: np.ndarray, labels: np.ndarray | None, late: np.ndarray) -> Errors:
    """Those that four phases are read from: the samples not flagged stand for the test set."""
    train, clean, wrong = (1 - answers[:, chosen].mean(axis=1) for chosen in (slice(None), ~late, late))
    n, n_w = len(late), int(late.sum())
    chance = float("nan") if labels is None else _chance(labels)
    counts = Counts(n, n - n_w, n_w, n - n_w, chance, chance, len(epoch))
    return Errors(epoch, train, clean, clean, wrong, np.full(len(epoch), np.nan), counts)


def _without_late(epoch: np.ndarray, answers: np.ndarray, labels: np.ndarray | None, rule: float) -> Phases:
    """Fast learning and exploration, where no sample stands out as learnt late."""
    train, unknown = 1 - answers.mean(axis=1), np.full(len(epoch), np.nan)
    n, chance = answers.shape[1], float("nan") if labels is None else _chance(labels)
    fallen = learnt(train, n, chance, len(epoch))
    if fallen > LEVEL:
        return Phases((), {"any phase": f"the training error does not fall below chance ({said(fallen)})"})
    counts = Counts(n, float("nan"), float("nan"), float("nan"), chance, float("nan"), len(epoch))
    errors = Errors(epoch, train, unknown, unknown, unknown, unknown, counts)
    found = two_phases(errors, fallen, NULLS["fast learning, no test set"])
    phases = replace(found, reading=READINGS["rule, no test set"] if rule <= LEVEL else "")
    return phases if rule <= LEVEL else phases.doubted(UNTESTED)


def _chance(labels: np.ndarray) -> float:
    """The error of always answering the commonest label."""
    return float(1 - np.unique(labels, return_counts=True)[1].max() / len(labels))
