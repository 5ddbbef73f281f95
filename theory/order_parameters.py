"""Every closed-form order parameter at once, from the moments of per-sample gradients (Feng & Tu 2021, eqs 5-15).

The moments do not depend on the batch size. `closed_form` turns them into the scalars of one ensemble of minibatches:
"plain", B samples drawn from all, or "stratified", (1-rho)B clean and rho B wrong ones drawn independently.
"""

from dataclasses import dataclass

from sgdphases.theory.ensemble import (
    cosine,
    mixture_variance,
    ratio,
    split_activity,
    stratified_variance,
    variance_factor,
)


@dataclass(frozen=True)
class PopulationMoments:
    """What one population of samples contributes to the closed forms.

    Attributes
    ----------
    count : int
    loss, error : float
        Means; ``error`` is NaN for regression.
    mean_squared_norm : float
        ``mean |g_i|^2``.
    squared_mean : float
        ``|mean g_i|^2``.
    mean_on_mean, variance_on_mean : float
        Mean and variance, over the population's samples, of ``g_i . g`` with g the mean gradient of all samples.
    variance_on_own : float
        Variance of ``g_i . g_p`` with g_p the population's own mean gradient.
    """

    count: int
    loss: float
    error: float
    mean_squared_norm: float
    squared_mean: float
    mean_on_mean: float
    variance_on_mean: float
    variance_on_own: float

    @property
    def gradient_variance(self) -> float:
        """``Tr Sigma``, the total variance of per-sample gradients in the population."""
        return max(self.mean_squared_norm - self.squared_mean, 0.0)  # in this order NaN stays NaN


@dataclass(frozen=True)
class GradientMoments:
    """Moments of all samples and, where wrong labels are known, of the two populations.

    ``clean`` and ``wrong`` are None where unknown or empty; ``inner_product_cw`` is ``g_c . g_w`` (NaN then);
    ``fraction`` is rho, NaN where unknown.
    """

    everything: PopulationMoments
    clean: PopulationMoments | None
    wrong: PopulationMoments | None
    inner_product_cw: float
    fraction: float

    @property
    def squared_gap(self) -> float:
        """``|g_c - g_w|^2``; NaN unless both populations are present."""
        if self.clean is None or self.wrong is None:
            return float("nan")
        return max(self.clean.squared_mean + self.wrong.squared_mean - 2 * self.inner_product_cw, 0.0)

    @property
    def gradient_variance(self) -> float:
        """``Tr Sigma`` of all samples; from the populations where they are known, which keeps small differences."""
        if self.clean is None or self.wrong is None:
            return self.everything.gradient_variance
        return mixture_variance(
            self.fraction, self.clean.gradient_variance, self.wrong.gradient_variance, self.squared_gap
        )


def closed_form(
    moments: GradientMoments, batch_size: float, *, replacement: bool = False, stratified: bool = False
) -> dict[str, float]:
    """All scalars of the ensemble of minibatches that have a closed form.

    Parameters
    ----------
    moments : GradientMoments
    batch_size : float
        B, above 0; at most N without replacement.
    replacement : bool
    stratified : bool
        Whether minibatches hold (1-rho)B clean and rho B wrong samples, drawn independently; rho must be known.

    Returns
    -------
    dict of float
        By the project's names. Scalars of a population that is unknown or empty are missing.

    Raises
    ------
    ValueError
        If no such minibatch exists.
    """
    whole, rho = moments.everything, moments.fraction
    populations = {
        suffix: (part, share, variance_factor(part.count, share * batch_size, replacement=replacement))
        for suffix, part, share in (("c", moments.clean, 1 - rho), ("w", moments.wrong, rho))
        if part is not None
    }
    if stratified:
        variance, along = (
            stratified_variance(rho, *(_batch_variance(populations, suffix, name) for suffix in ("c", "w")))
            for name in ("gradient_variance", "variance_on_mean")
        )
    else:
        factor = variance_factor(whole.count, batch_size, replacement=replacement)
        variance, along = factor * moments.gradient_variance, factor * whole.variance_on_mean
    split = split_activity(whole.squared_mean, variance, along)
    found = dict(
        noise_fraction=rho,
        loss=whole.loss,
        train_error=whole.error,
        directed_activity=whole.squared_mean,
        **split._asdict(),
        mean_projection=ratio(whole.mean_on_mean, whole.squared_mean),
        gradient_variance=moments.gradient_variance,
        gradient_noise_scale=ratio(moments.gradient_variance, whole.squared_mean),
        aligned_fraction=ratio(whole.squared_mean, split.activity),
    )
    for suffix, (part, share, factor) in populations.items():
        found |= {f"{name}_{suffix}": value for name, value in _of_population(part, share, factor).items()}
    return found | _alignments(moments)


def _batch_variance(populations: dict, suffix: str, name: str) -> float:
    """``kappa V`` of one population; 0 for an absent one."""
    if suffix not in populations:
        return 0.0
    part, _, factor = populations[suffix]
    return float(factor * getattr(part, name))


def _of_population(part: PopulationMoments, share: float, factor: float) -> dict[str, float]:
    split = split_activity(part.squared_mean, factor * part.gradient_variance, factor * part.variance_on_own)
    return {
        "loss": part.loss,
        "error": part.error,
        "activity": split.activity,
        "directed_activity": share * share * part.squared_mean,
        "total_variance": split.total_variance,
        "projection_variance": split.projection_variance,
    }


def _alignments(moments: GradientMoments) -> dict[str, float]:
    """R_cw, R_ac and R_aw (Feng & Tu 2021, eqs 12 and 13); nothing unless both populations are present."""
    whole, clean, wrong, rho = moments.everything, moments.clean, moments.wrong, moments.fraction
    if clean is None or wrong is None:
        return {}
    inner = moments.inner_product_cw
    on_c = (1 - rho) * clean.squared_mean + rho * inner
    on_w = (1 - rho) * inner + rho * wrong.squared_mean
    return {
        "alignment_cw": cosine(inner, clean.squared_mean, wrong.squared_mean),
        "alignment_ac": cosine(on_c, whole.squared_mean, clean.squared_mean),
        "alignment_aw": cosine(on_w, whole.squared_mean, wrong.squared_mean),
    }
