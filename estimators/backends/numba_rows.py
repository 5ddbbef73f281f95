"""A whole checkpoint in one call: moments, closed forms, sampled alignments, test samples, in compiled code.

The closed forms are compiled from those of `sgdphases.theory.ensemble`, and have their bits. What `numba_passes` says
of numba's cache goes for this module, too.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import register_jitable

from sgdphases.estimators.backends.numba_kernels import FAST
from sgdphases.estimators.backends.numba_passes import Kept, batch_gradients, both_passes, score
from sgdphases.theory.ensemble import cosine, factor_without_repeats, mixture_variance, ratio, split_activity

for _function in (cosine, factor_without_repeats, mixture_variance, ratio, split_activity):
    register_jitable(_function)

CLOSED = (
    "noise_fraction", "loss", "train_error", "activity", "directed_activity", "total_variance", "orthogonal_activity",
    "parallel_activity", "parallel_variance", "projection_variance", "mean_projection", "gradient_variance",
    "gradient_noise_scale", "aligned_fraction", "alignment", "loss_c", "loss_w", "error_c", "error_w", "activity_c",
    "activity_w", "directed_activity_c", "directed_activity_w", "total_variance_c", "total_variance_w",
    "projection_variance_c", "projection_variance_w", "alignment_cw", "alignment_ac", "alignment_aw", "alignment_c",
    "alignment_w",
)  # fmt: skip
"""Scalars of `closed_forms`, in its order; the sampled alignments among them are NaN."""
SAMPLED = tuple(CLOSED.index(name) for name in ("alignment", "alignment_c", "alignment_w"))
LOSS, ERROR, SQUARED_NORM, SQUARED_MEAN, ON_MEAN, VARIANCE_ON_MEAN, VARIANCE_ON_OWN = range(7)
"""Columns of `moments`: the attributes of `sgdphases.theory.order_parameters.PopulationMoments`, but for the count."""
MIN_BATCHES = 3  # fewer leave no jackknife standard error


@njit(cache=True, fastmath=FAST)
def moments(found, counts, table):
    """Moments of all samples and of K populations, rows of ``table``, shape (1 + K, 7), from both passes.

    Returns the inner product of the mean gradients of both populations, NaN unless there are two with samples in them.
    """
    samples, gradient, along = found
    total, last = counts.sum(), len(counts) - 1
    products = np.zeros(6)  # g.g, g_0.g, g_1.g, g_0.g_0, g_1.g_1, g_0.g_1
    share, other_share = 1.0 / max(counts[0], 1), 1.0 / max(counts[last], 1)
    whole, on_0, on_1, in_0, in_1, across = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(gradient.shape[1]):
        one, other = np.float64(gradient[0, i]), np.float64(gradient[last, i])
        mean = (one + other) / total if last == 1 else one / total
        one, other = one * share, other * other_share
        whole += mean * mean
        on_0 += one * mean
        on_1 += other * mean
        in_0 += one * one
        in_1 += other * other
        across += one * other
    products[0], products[1], products[2], products[3], products[4], products[5] = whole, on_0, on_1, in_0, in_1, across
    table[:] = 0.0
    start = 0
    for k in range(len(counts)):
        n, stop, own = counts[k], start + counts[k], table[1 + k]
        centre, own_centre = products[1 + k], products[3 + k]
        drift, squares, own_drift, own_squares, loss, error, norm = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for r in range(start, stop):
            loss += samples[0, r]
            error += samples[1, r]
            norm += samples[2, r]
            deviation, own_deviation = along[0, r] - centre, along[1, r] - own_centre
            drift += deviation
            squares += deviation * deviation
            own_drift += own_deviation
            own_squares += own_deviation * own_deviation
        table[0, LOSS] += loss
        table[0, ERROR] += error
        table[0, SQUARED_NORM] += norm
        if n > 0:
            own[LOSS], own[ERROR], own[SQUARED_NORM] = loss / n, error / n, norm / n
            own[SQUARED_MEAN], own[ON_MEAN] = own_centre, centre + drift / n
            own[VARIANCE_ON_MEAN] = _not_below_zero(squares / n - (drift / n) * (drift / n))
            own[VARIANCE_ON_OWN] = _not_below_zero(own_squares / n - (own_drift / n) * (own_drift / n))
        start = stop
    for column in (LOSS, ERROR, SQUARED_NORM):
        table[0, column] /= total
    if last == 0 or counts[0] == 0 or counts[1] == 0:
        only = 1 if counts[0] > 0 else 2
        for column in range(table.shape[1]):
            table[0, column] = table[only, column]
        return math.nan
    fraction = counts[1] / total
    gap = table[1, ON_MEAN] - table[2, ON_MEAN]
    table[0, SQUARED_MEAN] = whole
    table[0, ON_MEAN] = (1 - fraction) * table[1, ON_MEAN] + fraction * table[2, ON_MEAN]
    variance = mixture_variance(fraction, table[1, VARIANCE_ON_MEAN], table[2, VARIANCE_ON_MEAN], gap * gap)
    table[0, VARIANCE_ON_MEAN] = table[0, VARIANCE_ON_OWN] = variance
    return across


@njit(cache=True)
def _not_below_zero(value):
    return 0.0 if value < 0 else value  # NaN stays NaN


@njit(cache=True, error_model="numpy")
def closed_forms(table, counts, inner_cw, batch_size, row):
    """Fill ``row`` with the scalars of `CLOSED`, of plain minibatches drawn without replacement.

    The same as `sgdphases.theory.order_parameters.closed_form`, to the last bit.
    """
    row[:] = math.nan
    whole, total = table[0], counts.sum()
    rho = math.nan if len(counts) == 1 else counts[1] / total
    both = len(counts) == 2 and counts[0] > 0 and counts[1] > 0
    traces = np.empty(3)
    for k in range(len(table)):
        traces[k] = _not_below_zero(table[k, SQUARED_NORM] - table[k, SQUARED_MEAN])
    spread = traces[0]
    if both:
        gap = _not_below_zero(table[1, SQUARED_MEAN] + table[2, SQUARED_MEAN] - 2 * inner_cw)
        spread = mixture_variance(rho, traces[1], traces[2], gap)
    factor = factor_without_repeats(total, batch_size)
    size = whole[SQUARED_MEAN]
    split = split_activity(size, factor * spread, factor * whole[VARIANCE_ON_MEAN])
    first = (
        rho, whole[LOSS], whole[ERROR], split.activity, size, split.total_variance, split.orthogonal_activity,
        split.parallel_activity, split.parallel_variance, split.projection_variance, ratio(whole[ON_MEAN], size),
        spread, ratio(spread, size), ratio(size, split.activity),
    )  # fmt: skip
    for place in range(len(first)):
        row[place] = first[place]
    for k in range(len(counts)):
        if len(counts) == 1 or counts[k] == 0:
            continue
        own, share = table[1 + k], rho if k == 1 else 1 - rho
        factor = factor_without_repeats(counts[k], share * batch_size)
        size = own[SQUARED_MEAN]
        split = split_activity(size, factor * traces[1 + k], factor * own[VARIANCE_ON_OWN])
        directed = share * share * size
        of_population = (
            own[LOSS], own[ERROR], split.activity, directed, split.total_variance, split.projection_variance,
        )  # fmt: skip
        for place in range(len(of_population)):
            row[15 + 2 * place + k] = of_population[place]
    if both:
        clean, wrong = table[1, SQUARED_MEAN], table[2, SQUARED_MEAN]
        row[27] = cosine(inner_cw, clean, wrong)
        row[28] = cosine((1 - rho) * clean + rho * inner_cw, whole[SQUARED_MEAN], clean)
        row[29] = cosine((1 - rho) * inner_cw + rho * wrong, whole[SQUARED_MEAN], wrong)


@njit(cache=True, fastmath=FAST)
def _squared_norm(one, other, both):
    total = 0.0
    if both:
        for i in range(len(one)):
            value = np.float64(one[i]) + np.float64(other[i])
            total += value * value
    else:
        for i in range(len(one)):
            total += np.float64(one[i]) * np.float64(one[i])
    return total


@njit(cache=True, fastmath=FAST)
def _add_unit(total, factor, one, other, both):
    if both:
        for i in range(len(one)):
            total[i] += factor * (np.float64(one[i]) + np.float64(other[i]))
    else:
        for i in range(len(one)):
            total[i] += factor * np.float64(one[i])


@njit(cache=True, fastmath=FAST)
def _product(total, one, other, both):
    found = 0.0
    if both:
        for i in range(len(one)):
            found += total[i] * (np.float64(one[i]) + np.float64(other[i]))
    else:
        for i in range(len(one)):
            found += total[i] * np.float64(one[i])
    return found


@njit(cache=True)
def mean_cosine(one, other, both, counts):
    """`sgdphases.estimators.ensemble.alignment.mean_cosine` of M gradients, without the products of all pairs.

    The cosines of one with all others are ``u_i . S - 1``, with S the sum of all unit vectors u_i.

    Parameters
    ----------
    one, other : ndarray, shape (M, W)
        Sums of gradients.
    both : bool
        Whether the gradients are the sums of both, or ``one`` alone.
    counts : ndarray of int, shape (M,)
        Samples in each: those without any are left out.

    Returns
    -------
    float, float
        The mean, and its jackknife standard error; NaN for fewer than three, or where one has norm zero.
    """
    total, factors, n = np.zeros(one.shape[1]), np.empty(len(one)), 0
    for m in range(len(one)):
        if counts[m] > 0:
            squared = _squared_norm(one[m], other[m], both)
            if not squared > 0:
                return math.nan, math.nan
            factors[m] = 1 / math.sqrt(squared)
            _add_unit(total, factors[m], one[m], other[m], both)
            n += 1
    if n < MIN_BATCHES:
        return math.nan, math.nan
    cosines, whole = np.empty(n), 0.0
    place = 0
    for m in range(len(one)):
        if counts[m] > 0:
            cosines[place] = factors[m] * _product(total, one[m], other[m], both) - 1
            whole += cosines[place]
            place += 1
    mean, squares = 0.0, 0.0
    for place in range(n):
        cosines[place] = (whole - 2 * cosines[place]) / ((n - 1) * (n - 2))  # without that minibatch
        mean += cosines[place] / n
    for place in range(n):
        squares += (cosines[place] - mean) ** 2
    return whole / (n * (n - 1)), math.sqrt((n - 1) / n * squares)


class Drawing(NamedTuple):
    """Working memory for minibatches: what `batch_gradients` fills, and which samples are wrong."""

    wrong: np.ndarray
    losses: np.ndarray
    counts: np.ndarray
    gradients: np.ndarray


@njit(cache=True)
def alignments(weights, layers, inputs, targets, batches, measured, kept, drawing, found):
    """R, R_c and R_w of drawn minibatches and their standard errors: ``found``, shape (3, 2)."""
    wrong, losses, counts, gradients = drawing
    batch_gradients(weights, layers, inputs, targets, batches, wrong, kept, losses, counts, gradients)
    for i in range(len(measured)):
        if not measured[i]:
            gradients[:, :, i] = 0
    found[:] = math.nan
    last = len(gradients) - 1
    for k in range(1 + 2 * last):  # all, and where they are known, the right and the wrong samples
        own, other = max(k - 1, 0), last if k == 0 else k - 1
        both = k == 0 and last == 1
        present = counts[own] + counts[other] if both else counts[own]
        found[k, 0], found[k, 1] = mean_cosine(gradients[own], gradients[other], both, present)


class Ensemble(NamedTuple):
    """What a measurement is of: samples, one population of ``counts[k]`` after the other; parameters; and B."""

    order: np.ndarray
    counts: np.ndarray
    share: np.ndarray
    measured: np.ndarray
    batch_size: int


class Tested(NamedTuple):
    """Test samples, working memory for some of them at once, and what is found: losses, and which are right."""

    inputs: np.ndarray
    targets: np.ndarray
    labels: np.ndarray
    numbers: np.ndarray
    kept: Kept
    at_once: int
    loss: np.ndarray
    correct: np.ndarray


class Row(NamedTuple):
    """What a checkpoint finds: `moments`, the scalars of `CLOSED`, alignments, and the test's mean loss and error."""

    table: np.ndarray
    closed: np.ndarray
    sampled: np.ndarray
    test: np.ndarray


@njit(cache=True)
def checkpoint(weights, layers, inputs, targets, labels, ensemble, kept, found, batches, drawing, tested, row):
    """Fill ``row``; returns the inner product that `moments` returns. No ``batches``: no alignments."""
    order, counts, share, measured, batch_size = ensemble
    both_passes(weights, layers, inputs, targets, labels, order, counts, share, measured, kept, found)
    inner_cw = moments(found, counts, row.table)
    closed_forms(row.table, counts, inner_cw, batch_size, row.closed)
    if len(batches) > 0:
        alignments(weights, layers, inputs, targets, batches, measured, kept, drawing, row.sampled)
        for k in range(3):
            row.closed[SAMPLED[k]] = row.sampled[k, 0]
    n = len(tested.numbers)
    for start in range(0, n, tested.at_once):
        stop = min(start + tested.at_once, n)
        numbers, loss, correct = tested.numbers[start:stop], tested.loss[start:stop], tested.correct[start:stop]
        score(weights, layers, tested.inputs, tested.targets, tested.labels, numbers, tested.kept, loss, correct)
    loss, right = 0.0, 0.0
    for r in range(n):
        loss += tested.loss[r]
        right += tested.correct[r]
    row.test[0], row.test[1] = loss / n, 1.0 - right / n
    return inner_cw


@njit(cache=True)
def lost(correct, error, errors, before, bits):
    """Pack which test samples are right into ``bits``; the fraction right at the lowest error before, and not now.

    ``errors``, shape (k,), and ``before``, shape (k, bytes), are those of earlier checkpoints: see
    `sgdphases.sim.run.trajectory.lost_samples`.
    """
    bits[:] = 0
    for r in range(len(correct)):
        if correct[r] > 0.5:
            bits[r >> 3] |= np.uint8(128 >> (r & 7))
    if len(errors) == 0:
        return 0.0
    best = 0
    for k in range(len(errors)):
        if errors[k] < errors[best]:
            best = k
    if not errors[best] < error:
        return 0.0
    count = 0
    for r in range(len(correct)):
        if before[best, r >> 3] & np.uint8(128 >> (r & 7)) and not correct[r] > 0.5:
            count += 1
    return count / len(correct)
