"""Bounds of a share from a count, exact (Clopper & Pearson 1934)."""

from scipy.special import betaincinv


def share_at_most(count: int, n: float, tail: float) -> float:
    """Upper bound of a probability that has shown in ``count`` of ``n`` trials; it misses with probability ``tail``."""
    return 1.0 if count >= n else float(betaincinv(count + 1, n - count, 1 - tail))


def share_at_least(count: int, n: float, tail: float) -> float:
    """Lower bound likewise."""
    return 0.0 if count <= 0 else float(betaincinv(count, n - count + 1, tail))
