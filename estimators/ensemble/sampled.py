"""Order parameters from drawn minibatches: the paper's literal definition, with standard errors.

Needs nothing but minibatch gradients, so it also measures networks whose samples are coupled, such as those with
BatchNorm in training mode. Each minibatch leaves its clean and its wrong part; the inner products of all parts among
one another hold every scalar.
"""

import numpy as np

from sgdphases.estimators.backend import Backend, chunks
from sgdphases.estimators.ensemble.alignment import MIN_BATCHES, mean_cosine
from sgdphases.estimators.ensemble.checks import check_ensemble, check_mask
from sgdphases.estimators.ensemble.order_parameters import OrderParameters
from sgdphases.estimators.errors import UsageError
from sgdphases.theory.ensemble import cosine, ratio, split_activity, variance_factor

MOST_GROUPS = 50  # left out in turn for the standard errors: single minibatches, or as many groups of them
LARGE = 2**20  # numbers in a gradient above which drawn ones are kept in float32
NAN = float("nan")


def sampled(
    backend: Backend,
    *,
    batch_size: int,
    n_batches: int,
    rng: np.random.Generator,
    wrong: np.ndarray | None = None,
    replacement: bool = False,
    ensemble: str = "plain",
    partition: bool = False,
) -> OrderParameters:
    """Order parameters from M minibatches (Feng & Tu 2021, eqs 5-15), each with a jackknife standard error.

    From independent minibatches A0, D and the variance along the mean gradient are unbiased (U-statistics over distinct
    minibatches); ratios of such are consistent. With ``partition`` the minibatches are those of one epoch. They are not
    independent: their mean is the full gradient, so A0 and D follow from deviations about it, but R is biased low, by
    about ``(1 - A0/A) / (M - 1)``, and its standard error is that of independent draws.

    The scalars of a population use the clean (wrong) part of each minibatch, whose size varies in the plain ensemble: a
    minibatch without such a part is left out.

    Parameters
    ----------
    backend : Backend
    batch_size : int
        B.
    n_batches : int
        M, at least 5; ignored with ``partition``, where it is N // B.
    rng : numpy.random.Generator
    wrong : ndarray of bool, shape (N,), or None
    replacement : bool
        Whether a minibatch may hold a sample twice.
    ensemble : {"plain", "stratified"}
        Stratified minibatches hold rho B wrong samples, which must be a whole number.
    partition : bool
        The minibatches of one epoch; only for plain ones without replacement.

    Returns
    -------
    OrderParameters
        With ``moments`` None.

    Raises
    ------
    UsageError
        If there are too few minibatches or no such ensemble exists.
    InputError
        If the mask does not fit the data.
    """
    mask = check_mask(wrong, backend.n_samples)
    check_ensemble(backend.n_samples, batch_size, replacement, ensemble, known=mask is not None)
    batches = _drawn(backend.n_samples, mask, batch_size, n_batches, rng, replacement, ensemble, partition)
    if len(batches) <= MIN_BATCHES + 1:
        raise UsageError(
            f"{len(batches)} minibatches are too few for standard errors: draw at least {MIN_BATCHES + 2}."
        )
    parts, sizes, losses, errors = _observed(backend, batches, mask)
    products = _products(parts)
    fraction = NAN if mask is None else float(mask.mean())
    everyone, sides = np.arange(len(batches)), np.arange(len(sizes))

    def scalars(kept: np.ndarray) -> dict[str, float]:
        inner = products[np.ix_(sides, kept, sides, kept)]
        whole = _Population(inner.sum(axis=(0, 2)), partition)
        factor = variance_factor(backend.n_samples, batch_size, replacement=replacement)
        found = {
            "activity": whole.activity,
            "directed_activity": whole.directed,
            "total_variance": whole.variance,
            **_split(whole),
            "aligned_fraction": ratio(whole.directed, whole.activity),
            "gradient_variance": ratio(whole.variance, factor),
            "gradient_noise_scale": ratio(ratio(whole.variance, factor), whole.directed),
            "mean_projection": ratio(whole.on_mean, whole.directed),
            "alignment": mean_cosine(inner.sum(axis=(0, 2))).value,
            "loss": _mean(losses[:, kept], sizes[:, kept]),
            "train_error": _mean(errors[:, kept], sizes[:, kept]),
        }
        if mask is not None:
            found |= _two_populations(inner, sizes[:, kept], losses[:, kept], errors[:, kept], fraction, partition)
        return found

    values = scalars(everyone)
    groups = np.array_split(everyone, min(len(everyone), MOST_GROUPS))
    left_out = [scalars(np.setdiff1d(everyone, group)) for group in groups]
    spread = {name: _jackknife(np.array([row[name] for row in left_out])) for name in values}
    return OrderParameters(
        int(batch_size), bool(replacement), ensemble, None, noise_fraction=fraction, **values, standard_errors=spread
    )


class _Population:
    """Statistics of M vectors from their inner products."""

    def __init__(self, gram: np.ndarray, partition: bool):
        m, squares = len(gram), np.diag(gram)
        self.activity = float(squares.mean()) if m else NAN
        self.directed = self.along = self.on_mean = NAN
        if partition and m:
            on_mean = gram.mean(axis=1)
            self.directed = float(gram.mean())
            self.along = float((on_mean**2).mean() - self.directed**2)
            self.on_mean = float(on_mean.mean())
        elif m > MIN_BATCHES:
            off = gram - np.diag(squares)
            rows, total, squared = off.sum(axis=1), off.sum(), (off**2).sum()
            pairs = m * (m - 1)
            self.directed = float(total / pairs)
            same = ((rows**2).sum() - squared) / (pairs * (m - 2))  # (g1.g3)(g1.g4) over distinct minibatches
            other = (total**2 - 4 * (rows**2).sum() + 2 * squared) / (pairs * (m - 2) * (m - 3))  # (g1.g3)(g2.g4)
            self.along = float(same - other)
            self.on_mean = self.directed
        self.variance = self.activity - self.directed


def _split(part: _Population) -> dict[str, float]:
    split = split_activity(part.directed, part.variance, part.along)
    names = ("projection_variance", "parallel_variance", "parallel_activity", "orthogonal_activity")
    return {name: getattr(split, name) for name in names}


def _two_populations(inner, sizes, losses, errors, fraction: float, partition: bool) -> dict[str, float]:
    """What the clean and wrong parts give; ``inner`` has shape (2, M, 2, M)."""
    total = sizes.sum(axis=0)
    found: dict[str, float] = {}
    squares: dict[str, float] = {}
    for side, name, share in ((0, "c", 1 - fraction), (1, "w", fraction)):
        present = np.flatnonzero(sizes[side])
        scale = total[present] / sizes[side, present]  # from the share in the minibatch to the mean of the part
        own = inner[side][:, side][np.ix_(present, present)] * np.outer(scale, scale)
        part = _Population(own, partition and len(present) == len(total))
        squares[name] = part.directed
        found |= {
            f"activity_{name}": part.activity,
            f"directed_activity_{name}": share**2 * part.directed,
            f"total_variance_{name}": part.variance,
            f"projection_variance_{name}": _split(part)["projection_variance"],
            f"alignment_{name}": mean_cosine(own).value,
            f"loss_{name}": _mean(losses[side : side + 1], sizes[side : side + 1]),
            f"error_{name}": _mean(errors[side : side + 1], sizes[side : side + 1]),
        }
    both = np.flatnonzero((sizes > 0).all(axis=0))
    if len(both) > MIN_BATCHES:
        scale = total[both] / sizes[:, both]
        cross = inner[0][:, 1][np.ix_(both, both)] * np.outer(scale[0], scale[1])
        inner_cw = _off_diagonal_mean(cross)
        on_c = (1 - fraction) * squares["c"] + fraction * inner_cw
        on_w = (1 - fraction) * inner_cw + fraction * squares["w"]
        size = (1 - fraction) * on_c + fraction * on_w
        found["alignment_cw"] = _cosine(inner_cw, squares["c"], squares["w"])
        found["alignment_ac"] = _cosine(on_c, size, squares["c"])
        found["alignment_aw"] = _cosine(on_w, size, squares["w"])
    else:
        found |= dict.fromkeys(("alignment_cw", "alignment_ac", "alignment_aw"), NAN)
    return found


def _drawn(n, mask, batch_size, n_batches, rng, replacement, ensemble, partition) -> list[np.ndarray]:
    if partition:
        if replacement or ensemble != "plain":
            raise UsageError("partition = True: an epoch's minibatches are plain ones, without replacement.")
        order = rng.permutation(n)[: n // batch_size * batch_size]
        return list(order.reshape(-1, batch_size))
    if ensemble == "plain":
        return [rng.choice(n, size=batch_size, replace=replacement) for _ in range(n_batches)]
    n_wrong = batch_size * mask.mean()
    if abs(n_wrong - round(n_wrong)) > 1e-9:
        raise UsageError(
            f"ensemble = 'stratified', batch_size = {batch_size}: a minibatch would hold {n_wrong:.3g} wrong samples; "
            "choose a batch size that makes this whole."
        )
    groups = [(np.flatnonzero(~mask), batch_size - round(n_wrong)), (np.flatnonzero(mask), round(n_wrong))]
    return [
        np.concatenate([rng.choice(members, size=size, replace=replacement) for members, size in groups if size])
        for _ in range(n_batches)
    ]


def _observed(backend: Backend, batches: list[np.ndarray], mask: np.ndarray | None):
    """Parts of every minibatch's gradient, their sizes, and mean losses and errors: (sides, M, P), then (sides, M)."""
    sides = 1 if mask is None else 2
    kind = np.float32 if backend.n_parameters > LARGE else np.float64
    parts = np.empty((sides, len(batches), backend.n_parameters), kind)
    sizes, losses, errors = np.zeros((3, sides, len(batches)))
    for number, batch in enumerate(batches):
        member = np.ones((1, len(batch))) if mask is None else np.stack([~mask[batch], mask[batch]]).astype(float)
        sizes[:, number] = member.sum(axis=1)
        pieces = chunks(np.arange(len(batch)), backend.chunk_size)
        parts[:, number] = sum(backend.weighted_sums(batch[p], member[:, p].T) for p in pieces) / len(batch)
        scores = [backend.scores(batch[p]) for p in pieces]
        loss, correct = (np.concatenate(values) for values in zip(*scores, strict=True))
        with np.errstate(invalid="ignore"):
            losses[:, number] = member @ loss / sizes[:, number]
            errors[:, number] = member @ (1 - correct) / sizes[:, number]
    return parts, sizes, losses, errors


def _products(parts: np.ndarray) -> np.ndarray:
    """Inner products of all parts, float64, shape (sides, M, sides, M)."""
    flat = parts.reshape(-1, parts.shape[-1])
    gram = np.zeros((len(flat), len(flat)))
    for start in range(0, flat.shape[1], LARGE):
        piece = flat[:, start : start + LARGE].astype(np.float64)
        gram += piece @ piece.T
    return gram.reshape(parts.shape[:2] * 2)


def _mean(values: np.ndarray, sizes: np.ndarray) -> float:
    weight = sizes.sum()
    return float(np.where(sizes > 0, values * sizes, 0.0).sum() / weight) if weight else NAN


def _off_diagonal_mean(matrix: np.ndarray) -> float:
    m = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (m * (m - 1)))


def _cosine(inner: float, one: float, other: float) -> float:
    return cosine(inner, one, other) if one > 0 and other > 0 else NAN


def _jackknife(left_out: np.ndarray) -> float:
    m = len(left_out)
    return float(np.sqrt((m - 1) / m * ((left_out - left_out.mean()) ** 2).sum()))
