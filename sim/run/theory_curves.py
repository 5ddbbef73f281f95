"""Predictions without a fitted number beside what a run measures, checkpoint by checkpoint.

Two theories know curves of a whole run. The linear model predicts every order parameter of a network without hidden
layers under squared loss, averaged over runs whose minibatches are drawn independently; a run that reshuffles its
samples each epoch, as ours do, has less noise at the end of an epoch. Clean priority predicts, for classes, how the
mean gradient of the wrong samples would compare with that of the clean ones if nothing were memorised: where the
measured curve leaves the predicted one, memorising has begun.
"""

from collections.abc import Callable

import numpy as np

from sgdphases.estimators.backend import Backend
from sgdphases.estimators.ensemble.clean_priority import predicted_balance
from sgdphases.estimators.ensemble.order_parameters import OrderParameters
from sgdphases.estimators.errors import UsageError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.label_noise.transitions import transition_matrix
from sgdphases.sim.run.settings import RunSettings
from sgdphases.theory.linear.flow import descent
from sgdphases.theory.linear.predictions import predictions
from sgdphases.theory.linear.sgd import WeightMoments, sgd_moments

Curves = Callable[[int, OrderParameters], dict[str, float]]
LINEAR_NAMES = (
    "loss", "loss_c", "loss_w", "test_loss", "activity", "directed_activity", "directed_activity_c",
    "directed_activity_w", "total_variance", "projection_variance", "alignment_cw", "alignment_ac", "alignment_aw",
)  # fmt: skip
MOST_OPERATIONS = 2e11  # of the exact recursion for SGD's covariance; beyond that the mean alone is followed


def theory_curves(
    settings: RunSettings, data: Dataset, train: Backend, wrong: np.ndarray | None, marks: np.ndarray
) -> Curves:
    """A function from a checkpoint's step and measurement to predicted scalars, named ``NAME_theory``.

    Call it with the network at that step's weights.

    Parameters
    ----------
    settings : RunSettings
    data : Dataset
    train : Backend
        At the starting weights.
    wrong : ndarray of bool, shape (N,), or None
    marks : ndarray of int
        The steps at which it will be asked.

    Raises
    ------
    UsageError
        If no theory applies to these settings, saying which would.
    """
    if not settings.hidden and settings.loss == "squared" and data.n_outputs == 1:
        return _linear(settings, data, train.weights, wrong, marks)
    nominal = _nominal_transition(settings, data)
    if nominal is not None and wrong is not None and 0 < wrong.sum() < len(wrong):
        return _clean_priority(data, train, wrong, nominal)
    raise UsageError(
        "no theory predicts curves for these settings: it takes a network without hidden layers under squared loss "
        "with one output (--hidden none --loss squared), or classes with label noise of the kind uniform, "
        "uniform-other or pair-flip and a noise fraction between 0 and 1."
    )


def _linear(settings: RunSettings, data: Dataset, start: np.ndarray, wrong: np.ndarray | None, marks) -> Curves:
    """The network's bias is one more input, always 1."""
    x, x_test = (_with_bias(values) for values in (data.x_train, data.x_test))
    y, y_test = (_targets(values) for values in (data.y_train, data.y_test))
    steps = np.unique(marks)
    rank = min(x.shape)
    start = start.astype(np.float64)
    weights: np.ndarray | WeightMoments
    noisy = settings.batch_size < len(x)  # a full batch without repeats is plain descent
    if noisy and float(steps[-1]) * len(x) * rank**2 <= MOST_OPERATIONS:
        weights = sgd_moments(x, y, steps, settings.learning_rate, settings.batch_size, start)
    else:
        weights = descent(x, y, steps, settings.learning_rate, start)
    found = predictions(
        x, y, weights, settings.batch_size, wrong=wrong, replacement=False, test=(x_test, y_test),
    )  # fmt: skip
    rows = {int(step): k for k, step in enumerate(steps)}
    return lambda step, _: {f"{name}_theory": float(found[name][rows[step]]) for name in LINEAR_NAMES}


def _clean_priority(data: Dataset, train: Backend, wrong: np.ndarray, transition: np.ndarray) -> Curves:
    x, y, n_wrong = data.x_train[~wrong], data.y_train[~wrong], int(wrong.sum())

    def now(step: int, measured: OrderParameters) -> dict[str, float]:
        predicted = predicted_balance(train, x, y, n_wrong, transition)
        return {
            "alignment_cw_theory": predicted.alignment_cw,
            "directed_activity_w_theory": predicted.ratio**2 * measured.directed_activity_c,
        }

    return now


def _nominal_transition(settings: RunSettings, data: Dataset) -> np.ndarray | None:
    """Where the labels of the wrong population go, if it is the same everywhere."""
    kind = settings.noise_kind
    if data.n_classes is None or kind not in ("uniform", "uniform-other", "pair-flip"):
        return None
    if kind == "uniform" and settings.wrong_labels == "actual":
        kind = "uniform-other"
    return transition_matrix(kind, 1.0, data.n_classes)


def _with_bias(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(len(x), -1).astype(np.float64)
    return np.hstack([flat, np.ones((len(flat), 1))])


def _targets(y: np.ndarray) -> np.ndarray:
    return np.asarray(y, dtype=np.float64).reshape(len(y))
