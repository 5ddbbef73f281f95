"""Online SGD of a soft committee machine in closed form (Saad & Solla 1995).

A student of K units ``J_i`` learns a teacher of M units ``B_n``. Both add up ``g(u) = erf(u / sqrt(2))`` over their
fields ``u = J_i.x`` and ``u = B_n.x``, for inputs ``x ~ N(0, I_d)``. The label of an example is the teacher's output
plus independent noise of mean 0 and variance ``s2``. One example moves each unit by ``(eta / d) delta_i x``, where
``delta_i = g'(J_i.x) (label - output of the student)`` and all ``|J_i|`` and ``|B_n|`` are of order one.
Time is ``tau = steps / d``. The state is the covariance of the fields: ``Q = J J^T``, ``R = J B^T``, ``T = B B^T``.

Assumed: every example is new, and d is infinite. There is no finite training set, so no example is seen twice, nothing
can be memorised, and phase III of learning does not exist here. At finite d the order parameters scatter about these
equations by the order of ``1 / sqrt(d)``, and by more where the flow leaves an unstable point, such as the plateau of
units that have not specialised yet.

Too large a learning rate: erf is bounded, so the equations hold and their solution is finite at all times. Beyond the
threshold (``pi sqrt(5/3) = 4.06`` for K = M = 1 and T = 1) the noiseless solution ``J = B`` is a fixed point still, but
`fixed_point` finds a positive growth rate, and `committee_flow` leaves it for a larger error and longer students. At
much higher rates Q grows on and on, and `committee_flow` stops with RuntimeError where rounding would tell.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import root

RUNAWAY = 1e4  # squared norm of a unit; some digits more and the averages cancel down to rounding


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
        return _error(_joint(self.student, self.overlap, self.teacher), len(self.teacher))

    def state(self, index: int) -> CommitteeState:
        """The state at ``times[index]``."""
        return CommitteeState(self.student[index], self.overlap[index], self.teacher)


@dataclass(frozen=True, eq=False)
class CommitteeFixedPoint:
    """A state that the flow leaves as it is.

    Attributes
    ----------
    state : CommitteeState
    growth_rate : float
        Largest real part among the eigenvalues of the Jacobian of (Q, R), per unit of tau.
    """

    state: CommitteeState
    growth_rate: float

    @property
    def stable(self) -> bool:
        """Whether every small deviation dies out. A growth rate within 1e-6 of zero is too near to call."""
        return self.growth_rate < 0


@dataclass(frozen=True, eq=False)
class FieldAverages:
    """Averages over N Gaussian fields ``u``; slopes ``g'(u_i)`` only of the first K (Saad & Solla 1995, appendix).

    Attributes
    ----------
    product : ndarray, shape (N, N)
        ``E[g(u_a) g(u_b)]``
    slopes : ndarray, shape (K, K)
        ``E[g'(u_i) g'(u_k)]``
    slope_field_product : ndarray, shape (K, N, N)
        ``E[g'(u_i) u_a g(u_b)]``
    slopes_product : ndarray, shape (K, K, N, N)
        ``E[g'(u_i) g'(u_k) g(u_a) g(u_b)]``
    """

    product: np.ndarray
    slopes: np.ndarray
    slope_field_product: np.ndarray
    slopes_product: np.ndarray


def field_averages(covariance: np.ndarray, n_students: int) -> FieldAverages:
    """Averages of ``g(u) = erf(u / sqrt(2))`` and its slope over Gaussian fields of mean 0.

    Parameters
    ----------
    covariance : ndarray, shape (N, N)
        Of the fields, the K students' first.
    n_students : int
        K
    """
    c, k = covariance, n_students
    one_plus = 1 + c.diagonal()
    own, to_all = one_plus[:k], c[:k]

    # Axes (i, a, b): i the unit with the slope.
    l3 = own[:, None] * one_plus - to_all**2
    slope_field_product = c * own[:, None, None] - to_all[:, :, None] * to_all[:, None, :]
    slope_field_product = 2 / np.pi * slope_field_product / (own[:, None] * np.sqrt(l3))[:, None, :]

    # Axes (i, k, a, b): i and k the units with slopes.
    both = np.outer(own, own) - c[:k, :k] ** 2
    cross = c[:k, :k, None, None]
    l4, own1, own2 = both[:, :, None, None], own[:, None, None, None], own[None, :, None, None]
    c13, c14 = to_all[:, None, :, None], to_all[:, None, None, :]
    c23, c24 = to_all[None, :, :, None], to_all[None, :, None, :]
    l0 = l4 * c - c23 * c24 * own1 - c13 * c14 * own2 + cross * (c13 * c24 + c14 * c23)
    l1 = l4 * one_plus[:, None] - c23**2 * own1 - c13**2 * own2 + 2 * cross * c13 * c23
    l2 = np.swapaxes(l1, 2, 3)
    slopes_product = 4 / np.pi**2 * np.arcsin(l0 / np.sqrt(l1 * l2)) / np.sqrt(l4)
    return FieldAverages(_product(c), 2 / np.pi / np.sqrt(both), slope_field_product, slopes_product)


def generalisation_error(state: CommitteeState) -> float:
    """Half the mean squared difference of student and noiseless teacher on a new input.

    Raises
    ------
    ValueError
        If the state is none: wrong shapes, no covariance, or units of a squared norm above 1e4.
    """
    return float(_error(_checked(state), len(state.teacher)))


def committee_drift(
    state: CommitteeState, learning_rate: float, noise_variance: float
) -> tuple[np.ndarray, np.ndarray]:
    """How fast the order parameters change (Saad & Solla 1995; label noise adds its variance to the squared error).

    Parameters
    ----------
    state : CommitteeState
    learning_rate : float
        eta, above 0.
    noise_variance : float
        s2 of the labels, at least 0.

    Returns
    -------
    tuple of ndarray, shapes (K, K) and (K, M)
        ``dQ/dtau`` and ``dR/dtau``.

    Raises
    ------
    ValueError
        If a number is out of range, or the state is none.
    """
    check_online_settings(learning_rate, noise_variance)
    return _drift(_checked(state), len(state.teacher), learning_rate, noise_variance)


def committee_flow(
    state: CommitteeState, learning_rate: float, noise_variance: float, times: np.ndarray
) -> CommitteePath:
    """Follow the order parameters from a state at ``tau = 0``.

    Parameters
    ----------
    state : CommitteeState
    learning_rate, noise_variance : float
        As for `committee_drift`.
    times : ndarray, shape (t,)
        tau, increasing from 0 or later.

    Returns
    -------
    CommitteePath
        Integrated with a relative tolerance of 1e-8 a step.

    Raises
    ------
    ValueError
        As for `committee_drift`, or the times do not increase.
    RuntimeError
        If a student's squared norm grows past 1e4, or the integration breaks down.
    """
    check_online_settings(learning_rate, noise_variance, times)
    _checked(state)
    k, m = np.shape(state.overlap)

    def room(_: float, entries: np.ndarray) -> float:
        return RUNAWAY - _unpacked(entries, k, m)[0].max()

    room.terminal = True  # type: ignore[attr-defined]
    found = solve_ivp(
        _rate(state, learning_rate, noise_variance),
        (0.0, float(times[-1]) or 1.0),
        _packed(state.student, state.overlap),
        method="LSODA",
        t_eval=times,
        events=room,
        rtol=1e-8,
        atol=1e-10,
    )
    if found.status != 0:
        raise RuntimeError(
            f"learning_rate = {learning_rate}: the flow stopped before tau = {times[-1]} ({found.message}), a "
            f"student's squared norm nears or passes {RUNAWAY:g}; choose a smaller rate or an earlier end."
        )
    student, overlap = _unpacked(found.y.T, k, m)
    return CommitteePath(np.array(times, dtype=np.float64), student, overlap, np.array(state.teacher, dtype=np.float64))


def fixed_point(state: CommitteeState, learning_rate: float, noise_variance: float) -> CommitteeFixedPoint:
    """The fixed point of the flow that a root search reaches from a state, be it stable or not.

    Parameters
    ----------
    state : CommitteeState
        Where the search starts: near the fixed point meant, such as the end of a path for a stable one.
    learning_rate, noise_variance : float
        As for `committee_drift`.

    Raises
    ------
    ValueError
        As for `committee_drift`.
    RuntimeError
        If the search does not converge, or ends where no students can be: Q, R and T are no covariance.
    """
    check_online_settings(learning_rate, noise_variance)
    _checked(state)
    rate = _rate(state, learning_rate, noise_variance)
    with np.errstate(all="ignore"):  # a trial step may leave the covariances; what it ends at is checked below
        found = root(lambda entries: rate(0.0, entries), _packed(state.student, state.overlap), tol=1e-10)
    left = np.abs(found.fun).max()
    start = "start nearer to it, for a stable one at the end of a long committee_flow."
    if not (found.success and left < 1e-9 * learning_rate):
        raise RuntimeError(f"no fixed point found, a drift of {left:.3g} is left: {start}")
    student, overlap = _unpacked(found.x, *np.shape(state.overlap))
    reached = CommitteeState(student, overlap, np.array(state.teacher, dtype=np.float64))
    try:
        _checked(reached)
    except ValueError as error:
        raise RuntimeError(f"the root found is no fixed point of students ({error}): {start}") from error
    steps = 1e-5 * np.eye(len(found.x))
    jacobian = [(rate(0.0, found.x + step) - rate(0.0, found.x - step)) / 2e-5 for step in steps]
    return CommitteeFixedPoint(reached, float(np.linalg.eigvals(np.array(jacobian)).real.max()))


def check_online_settings(learning_rate: float, noise_variance: float, times: np.ndarray | None = None) -> None:
    """Refuse settings with which no online run is possible.

    Raises
    ------
    ValueError
        If the learning rate or the noise variance is out of range, or the times do not increase from 0 or later.
    """
    if not 0 < learning_rate <= 1e6:
        raise ValueError(f"learning_rate = {learning_rate}: choose one above 0, of order one (at most 1e6).")
    if not 0 <= noise_variance <= 1e6:
        raise ValueError(f"noise_variance = {noise_variance}: choose 0, for no noise, or one above it (at most 1e6).")
    if times is None:
        return
    asked = np.asarray(times, dtype=np.float64)
    if asked.ndim != 1 or not asked.size:
        raise ValueError(f"times has the shape {asked.shape}: give a list of one time or more.")
    if not (np.isfinite(asked).all() and asked[0] >= 0 and (np.diff(asked) > 0).all()):
        raise ValueError(f"times = {asked}: give finite ones, each later than the one before, none before 0.")


def _checked(state: CommitteeState) -> np.ndarray:
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
    joint = _joint(student, overlap, teacher)
    if not np.isfinite(joint).all() or not np.allclose(joint, joint.T, rtol=1e-8, atol=1e-10):
        raise ValueError(f"the state is not finite or not symmetric: {joint.tolist()}; mend student and teacher.")
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


def _joint(student: np.ndarray, overlap: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Shape (..., K+M, K+M), from (..., K, K), (..., K, M) and (M, M)."""
    teachers = np.broadcast_to(teacher, (*overlap.shape[:-2], *teacher.shape))
    upper = np.concatenate([student, overlap], axis=-1)
    return np.concatenate([upper, np.concatenate([np.swapaxes(overlap, -1, -2), teachers], axis=-1)], axis=-2)


def _signs(n_units: int, n_teachers: int) -> np.ndarray:
    """What each unit counts in label minus output, shape (K+M,)."""
    return np.where(np.arange(n_units) < n_units - n_teachers, -1.0, 1.0)


def _product(c: np.ndarray) -> np.ndarray:
    spread = np.sqrt(1 + np.diagonal(c, axis1=-2, axis2=-1))
    return 2 / np.pi * np.arcsin(c / (spread[..., :, None] * spread[..., None, :]))


def _error(joint: np.ndarray, n_teachers: int) -> np.ndarray:
    signs = _signs(joint.shape[-1], n_teachers)
    return 0.5 * signs @ _product(joint) @ signs


def _drift(
    joint: np.ndarray, n_teachers: int, learning_rate: float, noise_variance: float
) -> tuple[np.ndarray, np.ndarray]:
    k, signs = len(joint) - n_teachers, _signs(len(joint), n_teachers)
    averages = field_averages(joint, k)
    pull = averages.slope_field_product @ signs
    squared = averages.slopes_product @ signs @ signs + noise_variance * averages.slopes
    return learning_rate * (pull[:, :k] + pull[:, :k].T) + learning_rate**2 * squared, learning_rate * pull[:, k:]


def _packed(student: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """The entries that are free to move: the upper triangle of Q, then R."""
    student, overlap = np.asarray(student, dtype=np.float64), np.asarray(overlap, dtype=np.float64)
    return np.concatenate([student[np.triu_indices(len(student))], overlap.ravel()])


def _unpacked(entries: np.ndarray, k: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Q and R, shapes (..., K, K) and (..., K, M)."""
    rows, columns = np.triu_indices(k)
    student = np.empty((*entries.shape[:-1], k, k))
    student[..., rows, columns] = student[..., columns, rows] = entries[..., : len(rows)]
    return student, entries[..., len(rows) :].reshape(*entries.shape[:-1], k, m)


def _rate(
    state: CommitteeState, learning_rate: float, noise_variance: float
) -> Callable[[float, np.ndarray], np.ndarray]:
    """The drift of the free entries, as a function of time and these entries."""
    teacher = np.asarray(state.teacher, dtype=np.float64)
    k, m = np.shape(state.overlap)

    def rate(_: float, entries: np.ndarray) -> np.ndarray:
        joint = _joint(*_unpacked(entries, k, m), teacher)
        return _packed(*_drift(joint, m, learning_rate, noise_variance))

    return rate
