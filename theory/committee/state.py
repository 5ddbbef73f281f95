"""The order parameters of a committee and its teacher: records, their covariance, the generalisation error, checks."""

from dataclasses import dataclass

import numpy as np

from sgdphases.theory.committee.averages import mean_products

RUNAWAY = 1e4  # squared norm of a unit; a few digits beyond, the averages cancel down to rounding


@dataclass(frozen=True, eq=False)
class CommitteeState:
    """The order parameters of a student and its teacher.

    Attributes
    ----------
    student : ndarray, shape (K, K)
        Q, products of students.
    overlap : ndarray, shape (K, M)
        R, products of students and teachers.
    teacher : ndarray, shape (M, M)
        T, products of teachers.
    """

    student: np.ndarray
    overlap: np.ndarray
    teacher: np.ndarray


@dataclass(frozen=True, eq=False)
class CommitteePath:
    """Order parameters over time.

    Attributes
    ----------
    times : ndarray, shape (t,)
        tau, in steps per input dimension.
    student : ndarray, shape (t, K, K)
    overlap : ndarray, shape (t, K, M)
    teacher : ndarray, shape (M, M)
    """

    times: np.ndarray
    student: np.ndarray
    overlap: np.ndarray
    teacher: np.ndarray

    @property
    def generalisation_errors(self) -> np.ndarray:
        """Shape (t,), as of `generalisation_error`."""
        return _covariance_error(joint_covariance(self.student, self.overlap, self.teacher), len(self.teacher))

    def state(self, index: int) -> CommitteeState:
        """The state at ``times[index]``."""
        return CommitteeState(self.student[index], self.overlap[index], self.teacher)


def generalisation_error(state: CommitteeState) -> float:
    """Half the mean squared difference of student and noiseless teacher on a new input.

    Raises
    ------
    ValueError
        If the state is none: wrong shapes, no covariance, or units of a squared norm above 1e4.
    """
    return float(_covariance_error(checked_covariance(state), len(state.teacher)))


def check_online_settings(
    learning_rate: float,
    noise_variance: float,
    times: np.ndarray | None = None,
    *,
    noise_fraction: float = 0.0,
) -> None:
    """Refuse settings with which no online run is possible.

    Raises
    ------
    ValueError
        If the learning rate or the label noise is out of range, or the times do not increase from 0 or later.
    """
    if not 0 < learning_rate <= 1e6:
        raise ValueError(f"learning_rate = {learning_rate}: choose one above 0, of order one (at most 1e6).")
    if not 0 <= noise_variance <= 1e6:
        raise ValueError(f"noise_variance = {noise_variance}: choose 0, for no noise, or one above it (at most 1e6).")
    if not 0 <= noise_fraction <= 1:
        raise ValueError(f"noise_fraction = {noise_fraction}: choose a share between 0 and 1.")
    if times is None:
        return
    asked = np.asarray(times, dtype=np.float64)
    if asked.ndim != 1 or not asked.size:
        raise ValueError(f"times has the shape {asked.shape}: give a list of one time or more.")
    if not (np.isfinite(asked).all() and asked[0] >= 0 and (np.diff(asked) > 0).all()):
        raise ValueError(f"times = {asked}: give finite ones, each later than the one before, none before 0.")


def checked_covariance(state: CommitteeState) -> np.ndarray:
    """The covariance of all fields, shape (K+M, K+M), students first."""
    student, overlap, teacher = (
        np.asarray(entries, dtype=np.float64) for entries in (state.student, state.overlap, state.teacher)
    )
    squares = tuple((n, n) for n in overlap.shape)
    if overlap.ndim != 2 or not overlap.size or (student.shape, teacher.shape) != squares:
        raise ValueError(
            f"the state has student {student.shape}, overlap {overlap.shape} and teacher {teacher.shape}: "
            f"give the shapes (K, K), (K, M) and (M, M), K and M at least 1."
        )
    joint = joint_covariance(student, overlap, teacher)
    if not np.isfinite(joint).all() or not np.allclose(joint, joint.T, rtol=1e-8, atol=1e-10):
        raise ValueError(f"the state is not finite or not symmetric: {joint.tolist()}; correct student and teacher.")
    if joint.diagonal().max() > RUNAWAY:
        raise ValueError(
            f"a unit has the squared norm {joint.diagonal().max():.3g}, above {RUNAWAY:g}: give weights on the scale "
            f"where the fields of unit-variance inputs are of order one."
        )
    eigenvalues = np.linalg.eigvalsh(joint)
    if eigenvalues[0] < -1e-7 * max(1.0, eigenvalues[-1]):
        raise ValueError(
            f"the joint covariance of students and teachers has the eigenvalue {eigenvalues[0]:.3g}: no such units "
            f"exist; lower the overlap or raise student and teacher until none is negative."
        )
    return joint


def joint_covariance(student: np.ndarray, overlap: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Shape (..., K+M, K+M), from (..., K, K), (..., K, M) and (M, M)."""
    teachers = np.broadcast_to(teacher, (*overlap.shape[:-2], *teacher.shape))
    upper = np.concatenate([student, overlap], axis=-1)
    return np.concatenate([upper, np.concatenate([np.swapaxes(overlap, -1, -2), teachers], axis=-1)], axis=-2)


def error_signs(n_units: int, n_teachers: int) -> np.ndarray:
    """What each unit counts in label minus output, shape (K+M,)."""
    return np.where(np.arange(n_units) < n_units - n_teachers, -1.0, 1.0)


def _covariance_error(joint: np.ndarray, n_teachers: int) -> np.ndarray:
    signs = error_signs(joint.shape[-1], n_teachers)
    return 0.5 * signs @ mean_products(joint) @ signs
