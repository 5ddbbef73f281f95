"""Wrong labels in arrays of one's own: one function, and an estimator as scikit-learn knows them."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.cleansing.cleanse import Cleansing, Show, cleanse
from sgdphases.sim.cleansing.sample_losses import enough_epochs
from sgdphases.sim.data.scaling import centre_and_spread, rescaled, scaling_problem
from sgdphases.sim.recipe.choose import check_no_augment, recipe_settings, takes_recipe
from sgdphases.sim.run.settings import IMAGE, RunSettings, make_settings

SAMPLES_FIELDS = {
    "dataset",
    "noise_fraction",
    "noise_kind",
    "train_size",
    "test_size",
    "data_dir",
    "checkpoints",
    "loss",
}


@dataclass(frozen=True, eq=False)
class FoundLabels:
    """What `find_wrong_labels` finds. Everything a sample has comes in the order of the samples.

    Attributes
    ----------
    wrong_probability : ndarray, shape (N,)
        That the given label is wrong; all 0 where no label noise is seen. Where losses show no two populations
        (``details.found.is_fitted`` is False), if as many labels are wrong as are flagged.
    flagged : ndarray of bool, shape (N,)
        The labels with the highest score: as many as losses around t_c, networks that have not seen them, or the share
        that was given, say.
    suggested_labels : ndarray, shape (N,)
        What the network would call each sample in phase II, in the labels given; for labels flagged another class than
        the given one.
    score : ndarray, shape (N,)
        The higher, the more suspect: how far another class is ahead of the label on average, from -1 to 1 (see
        `sgdphases.estimators.cleansing.margins`); by the recipe a quarter of its probability less the label's. It ranks
        samples even where no label noise is seen.
    noise_fraction : float
        Estimated share of wrong labels; NaN where they cannot be told from right ones of hard samples.
    noise_interval : tuple of float
        Bounds at 95 %, of the sampling error and of what cannot be known: see
        `sgdphases.estimators.cleansing.share.share_of_wrong`.
    has_noise : bool
    t_clean : float
        t_c, in epochs.
    loss_threshold : float
        l_c, in nats.
    details : Cleansing
        The rest: agreement of the probes, the mixture, the weights at t_c; ``details.memorised`` says whether the run
        was long enough.
    """

    wrong_probability: np.ndarray
    flagged: np.ndarray
    suggested_labels: np.ndarray
    score: np.ndarray
    noise_fraction: float
    noise_interval: tuple[float, float]
    has_noise: bool
    t_clean: float
    loss_threshold: float
    details: Cleansing


def find_wrong_labels(
    x: Any,
    y: Any,
    *,
    probes: int = 40,
    mixture: str = "log-odds",
    per_class: bool = False,
    known_fraction: float | None = None,
    standardize: bool | None = None,
    show: Show | None = None,
    **settings: Any,
) -> FoundLabels:
    """Find wrong labels by the order in which a network learns them (Feng & Tu 2021, sec. 5).

    Parameters
    ----------
    x : array_like, shape (N, features) or (N, channels, height, width)
        Bytes (uint8) are taken as images and divided by 255.
    y : array_like, shape (N,)
        Labels as given: whole numbers or text.
    probes : int
        Records of the losses, log-spaced from the first epoch to the last.
    mixture, per_class, known_fraction
        See `sgdphases.estimators.cleansing.consensus.wrong_labels`.
    standardize : bool or None
        Whether to give every feature mean 0 and variance 1; None does so where any value lies outside
        [-1, 1], or all are too small to be learnt from.
    show : callable, optional
        Called with what is done, and the steps done of all.
    **settings
        Of `sgdphases.sim.run.settings.RunSettings`: hidden, network, learning_rate, batch_size, epochs (here 100, and
        at least 10,000 steps, if not given), seed, backend, device, … A batch_size beyond N becomes N. The network
        "auto", the default, is "image", a recipe that learns photographs, for colour images and images larger than
        28x28, otherwise "mlp". For "image" the defaults are learning_rate 0.05, batch_size 64, epochs 25 or 2,000
        steps, and augment "shifts+mirror" for colour images, "shifts" for grey ones.

    Returns
    -------
    FoundLabels

    Raises
    ------
    UsageError
        For settings that are unknown or make no sense.
    InputError
        For samples or labels that cannot be used.
    TrainingDiverged
        If the learning rate is too high for these samples.
    """
    superfluous = sorted(SAMPLES_FIELDS & settings.keys())
    if superfluous:
        raise UsageError(f"{', '.join(superfluous)}: no setting of find_wrong_labels; leave it out.")
    samples, labels = usable_samples(x), np.asarray(y)
    if labels.ndim != 1 or len(labels) != len(samples):
        raise InputError(f"there are {len(samples)} samples and labels of shape {labels.shape}: give one a sample.")
    if labels.dtype.kind not in "biuUSO":
        raise InputError(f"labels have the type {labels.dtype}: give classes, as whole numbers or text.")
    classes, encoded = np.unique(labels, return_inverse=True)
    made = _with_defaults(probes, settings, samples)
    for_recipe = made.network == IMAGE and standardize is None  # which scales channels by itself
    found = cleanse(
        made,
        samples if for_recipe else scaled(samples, standardize),
        encoded,
        len(classes),
        kind=mixture,
        per_class=per_class,
        known_fraction=known_fraction,
        show=show,
    )
    return FoundLabels(
        wrong_probability=found.found.probability,
        flagged=~found.keep,
        suggested_labels=classes[found.suggested],
        score=found.score,
        noise_fraction=found.share.fraction,
        noise_interval=(found.share.low, found.share.high),
        has_noise=found.found.has_noise,
        t_clean=found.consensus.t_clean,
        loss_threshold=found.found.mixture.loss_threshold,
        details=found,
    )


def _with_defaults(probes: int, given: dict[str, Any], samples: np.ndarray) -> RunSettings:
    """Settings for these samples: what is not given, or None, or the network "auto", is chosen."""
    values = {name: value for name, value in given.items() if value is not None}
    if values.get("network") == "auto":
        del values["network"]
    made = make_settings({"dataset": "arrays", "checkpoints": probes, **values})
    n, shape = len(samples), samples.shape[1:]
    if "batch_size" in values:
        made = made.model_copy(update={"batch_size": min(made.batch_size, n)})
    if takes_recipe(made, shape):
        return recipe_settings(made, shape, n)
    check_no_augment(made)
    batch_size = min(made.batch_size, n)
    epochs = made.epochs if "epochs" in values else enough_epochs(n, batch_size)
    return made.model_copy(update={"batch_size": batch_size, "epochs": epochs})


def usable_samples(x: Any) -> np.ndarray:
    """Samples as floating-point numbers, shape (N, ...), bytes divided by 255; raises InputError where they are not."""
    samples = np.asarray(x)
    if samples.dtype.kind not in "biuf" or samples.ndim < 2 or samples.size == 0:
        raise InputError(
            f"samples of type {samples.dtype} and shape {samples.shape} cannot be used: give numbers, (N, features) or "
            "images."
        )
    if samples.dtype == np.uint8:
        return np.divide(samples, 255, dtype=np.float32)
    samples = samples.astype(np.float64 if samples.dtype == np.float64 else np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise InputError("samples hold NaN or infinity: fix these values, or leave those samples out.")
    return samples


def scaled(samples: np.ndarray, standardize: bool | None) -> np.ndarray:
    """Samples whose features have mean 0 and variance 1, if asked for or needed; a constant feature becomes 0."""
    if standardize is None:
        standardize = bool(np.abs(samples).max() > 1 or scaling_problem(samples))
    if not standardize:
        return samples
    return rescaled(samples, *centre_and_spread(samples))


class WrongLabelFinder(BaseEstimator):
    """`find_wrong_labels` as an estimator of scikit-learn.

    Parameters
    ----------
    hidden, activation, network, learning_rate, batch_size, epochs, backend, device
        See `sgdphases.sim.run.settings.RunSettings`, and `find_wrong_labels` for what None stands for. Other hidden
        layers than the default ones, or another activation, ask for the network "mlp" where it is "auto".
    augment : {"auto", "none", "shifts", "shifts+mirror"}
        See `sgdphases.sim.run.settings.RunSettings`: for images that the recipe learns.
    probes, mixture, per_class, known_fraction, standardize
        See `find_wrong_labels`.
    random_state : int, RandomState or None
        Of weights and minibatches.

    Attributes
    ----------
    wrong_probability_, flagged_, suggested_labels_, score_ : ndarray, shape (N,)
    noise_fraction_, t_clean_, loss_threshold_ : float
        See `FoundLabels`.
    classes_ : ndarray, shape (K,)
    n_features_in_ : int
    """

    def __init__(
        self,
        hidden: tuple[int, ...] = (100, 100),
        activation: str = "relu",
        network: str = "auto",
        augment: str = "auto",
        learning_rate: float | None = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        probes: int = 40,
        mixture: str = "log-odds",
        per_class: bool = False,
        known_fraction: float | None = None,
        standardize: bool | None = None,
        backend: str | None = None,
        device: str | None = None,
        random_state: Any = 0,
    ):
        self.hidden = hidden
        self.activation = activation
        self.network = network
        self.augment = augment
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.epochs = epochs
        self.probes = probes
        self.mixture = mixture
        self.per_class = per_class
        self.known_fraction = known_fraction
        self.standardize = standardize
        self.backend = backend
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Find the wrong labels among ``y``.

        Parameters
        ----------
        X : array_like, shape (N, features) or (N, channels, height, width)
        y : array_like, shape (N,)
        """
        X, y = validate_data(
            self, X, y, allow_nd=True, ensure_min_samples=2, dtype="numeric" if _is_bytes(X) else np.float64
        )
        check_classification_targets(y)
        self.classes_, places = np.unique(y, return_inverse=True)
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        names = ("network", "augment", "learning_rate", "batch_size", "epochs", "device")
        common = {name: getattr(self, name) for name in names}
        if self.network == "mlp" or tuple(self.hidden) != RunSettings.model_fields["hidden"].default:
            common["hidden"] = tuple(self.hidden)
        if self.activation != RunSettings.model_fields["activation"].default:
            common["activation"] = self.activation
        if self.backend is not None:
            common["backend"] = self.backend
        found = find_wrong_labels(
            X,
            places,
            probes=self.probes,
            mixture=self.mixture,
            per_class=self.per_class,
            known_fraction=self.known_fraction,
            standardize=self.standardize,
            seed=int(seed),
            **common,
        )
        self.wrong_probability_ = found.wrong_probability
        self.flagged_ = found.flagged
        self.suggested_labels_ = self.classes_[found.suggested_labels]
        self.score_ = found.score
        self.noise_fraction_ = found.noise_fraction
        self.t_clean_ = found.t_clean
        self.loss_threshold_ = found.loss_threshold
        return self

    def fit_resample(self, X: Any, y: Any) -> tuple[Any, Any]:
        """Fit, and give back the samples that are not flagged, with their labels."""
        keep = ~self.fit(X, y).flagged_
        return np.asarray(X)[keep], np.asarray(y)[keep]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.three_d_array = True
        return tags


def _is_bytes(x: Any) -> bool:
    return getattr(x, "dtype", None) == np.uint8
