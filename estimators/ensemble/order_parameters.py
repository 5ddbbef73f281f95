"""The order parameters of one point in weight space, as a frozen record."""

from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

from sgdphases.estimators.ensemble.checks import check_ensemble
from sgdphases.estimators.errors import UsageError
from sgdphases.theory.order_parameters import GradientMoments, closed_form

NAN = float("nan")


def _scalar(symbol: str, text: str):
    return field(default=NAN, metadata={"symbol": symbol, "text": text})


@dataclass(frozen=True)
class OrderParameters:
    """Scalars of the minibatch ensemble at the present weights (Feng & Tu 2021, eqs 5-15).

    All are float64 numbers in the units of the loss (nats for cross-entropy) and of the gradient. A value that is
    undefined is NaN: projections and cosines where a mean gradient is zero, the populations where wrong labels are
    unknown or absent. ``describe()`` in this module lists every name with its symbol and meaning.

    Attributes
    ----------
    batch_size : int
        B.
    replacement : bool
        Whether a minibatch may hold a sample twice.
    ensemble : {"plain", "stratified"}
        Minibatches drawn from all samples, or (1-rho)B clean and rho B wrong ones drawn independently.
    moments : GradientMoments or None
        The batch-free moments all scalars but the sampled alignments derive from; None where all is sampled.
    standard_errors : dict of float
        Of whatever was sampled, by name. What is not in it is exact, up to rounding.
    """

    batch_size: int
    replacement: bool
    ensemble: str
    moments: GradientMoments | None = field(repr=False)
    noise_fraction: float = _scalar("ρ", "fraction of samples with wrong labels")
    loss: float = _scalar("L", "mean loss of the training set")
    train_error: float = _scalar("ε_tr", "fraction of training samples not given their label")
    activity: float = _scalar("A", "mean squared norm of minibatch gradients")
    directed_activity: float = _scalar("A_0", "squared norm of the mean gradient")
    total_variance: float = _scalar("D", "trace of the covariance C of minibatch gradients")
    orthogonal_activity: float = _scalar("A_⊥", "variance across the mean gradient")
    parallel_activity: float = _scalar("A_∥", "activity along the mean gradient")
    parallel_variance: float = _scalar("D_∥", "variance along the mean gradient")
    projection_variance: float = _scalar("σ_λ²", "variance of the projection λ on the mean gradient")
    mean_projection: float = _scalar("⟨λ⟩", "mean projection on the mean gradient, summed sample by sample: 1")
    gradient_variance: float = _scalar("Tr Σ", "total variance of per-sample gradients")
    gradient_noise_scale: float = _scalar("B_simple", "Tr Σ / A_0, the batch size at which noise equals signal")
    aligned_fraction: float = _scalar("A_0/A", "fractionally aligned activity, near R when norms concentrate")
    alignment: float = _scalar("R", "mean cosine between two independent minibatch gradients")
    loss_c: float = _scalar("L_c", "mean loss of samples with right labels")
    loss_w: float = _scalar("L_w", "mean loss of samples with wrong labels")
    error_c: float = _scalar("ε_c", "error on samples with right labels")
    error_w: float = _scalar("ε_w", "error on samples with wrong labels, against those labels")
    activity_c: float = _scalar("A_c", "mean squared norm of the clean minibatch gradient, (1-ρ)B samples")
    activity_w: float = _scalar("A_w", "mean squared norm of the wrong minibatch gradient, ρB samples")
    directed_activity_c: float = _scalar("A_0c", "(1-ρ)² times the squared norm of the clean mean gradient")
    directed_activity_w: float = _scalar("A_0w", "ρ² times the squared norm of the wrong mean gradient")
    total_variance_c: float = _scalar("D_c", "variance of the clean minibatch gradient, (1-ρ)B samples")
    total_variance_w: float = _scalar("D_w", "variance of the wrong minibatch gradient, ρB samples")
    projection_variance_c: float = _scalar("σ_λc²", "variance of the projection on the clean mean gradient")
    projection_variance_w: float = _scalar("σ_λw²", "variance of the projection on the wrong mean gradient")
    alignment_cw: float = _scalar("R_cw", "cosine between the clean and the wrong mean gradient")
    alignment_ac: float = _scalar("R_ac", "cosine between the mean gradient and the clean one")
    alignment_aw: float = _scalar("R_aw", "cosine between the mean gradient and the wrong one")
    alignment_c: float = _scalar("R_c", "mean cosine between the clean parts of two minibatches")
    alignment_w: float = _scalar("R_w", "mean cosine between the wrong parts of two minibatches")
    standard_errors: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """A table, a line for each value that is not NaN: symbol, name, value with its standard error, meaning."""
        drawn = "with" if self.replacement else "without"
        lines = [f"minibatches of {self.batch_size} samples, drawn {drawn} replacement, {self.ensemble} ensemble"]
        known = {name: getattr(self, name) for name in _names() if getattr(self, name) == getattr(self, name)}
        for name, value in known.items():
            symbol, text = describe()[name]
            error = self.standard_errors.get(name, NAN)
            shown = f"{value:.4g}" + (f" ± {error:.1g}" if error == error else "")
            lines.append(f"{symbol:8}  {name:22}  {shown:18}  {text}")
        if "noise_fraction" not in known:
            lines.append("nothing of right and wrong labels apart: give wrong=mask where it is known which are wrong")
        return "\n".join(lines)

    def at_batch_size(self, batch_size: int, *, replacement: bool | None = None) -> "OrderParameters":
        """The same point in weight space seen with another batch size: exact, without a new measurement.

        Sampled alignments are NaN in the result: they are not fixed by the moments.

        Raises
        ------
        UsageError
            If the batch size is not between 1 and N (no upper limit with replacement), or all was sampled.
        """
        keep = self.replacement if replacement is None else replacement
        return from_moments(self.known_moments(), batch_size, replacement=keep, ensemble=self.ensemble)

    def in_ensemble(self, ensemble: str) -> "OrderParameters":
        """The same point in the "plain" or the "stratified" ensemble: exact, without a new measurement.

        Raises
        ------
        UsageError
            For an unknown ensemble, or the stratified one where wrong labels are unknown.
        """
        return from_moments(self.known_moments(), self.batch_size, replacement=self.replacement, ensemble=ensemble)

    def with_values(self, **values: Any) -> "OrderParameters":
        """A copy with some scalars set, for estimators that add to the closed forms."""
        return replace(self, **values)

    def scalars(self) -> dict[str, float]:
        """All scalars by name, in the order of `describe`, then ``NAME_standard_error`` for what was sampled."""
        values = {name: float(getattr(self, name)) for name in _names()}
        return values | {f"{name}_standard_error": float(error) for name, error in self.standard_errors.items()}

    def known_moments(self) -> GradientMoments:
        """The moments; a UsageError where there are none, because all was sampled."""
        if self.moments is None:
            raise UsageError("a sampled measurement knows one batch size and one ensemble: use estimator='exact'.")
        return self.moments


def describe() -> dict[str, tuple[str, str]]:
    """Symbol and meaning of every scalar of `OrderParameters`, by name."""
    return {
        entry.name: (entry.metadata["symbol"], entry.metadata["text"])
        for entry in fields(OrderParameters)
        if "symbol" in entry.metadata
    }


@cache
def _names() -> tuple[str, ...]:
    return tuple(describe())


def from_moments(
    moments: GradientMoments, batch_size: int, *, replacement: bool = False, ensemble: str = "plain"
) -> OrderParameters:
    """All closed-form order parameters from batch-free moments (Feng & Tu 2021, eqs 5-15).

    Parameters
    ----------
    moments : GradientMoments
    batch_size : int
        B, 1 to N; any positive number with replacement.
    replacement : bool
    ensemble : {"plain", "stratified"}

    Raises
    ------
    UsageError
        If no such ensemble exists for these samples.
    """
    known = moments.fraction == moments.fraction
    check_ensemble(moments.everything.count, batch_size, replacement, ensemble, known=known)
    stratified = ensemble == "stratified"
    scalars: dict[str, Any] = closed_form(moments, batch_size, replacement=replacement, stratified=stratified)
    return OrderParameters(int(batch_size), bool(replacement), ensemble, moments, **scalars)
