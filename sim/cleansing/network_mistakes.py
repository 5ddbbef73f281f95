"""Wrong labels from a network's own confusions, to try a finder of wrong labels out on: mistakes that images invite."""

import numpy as np

from sgdphases.estimators.errors import UsageError
from sgdphases.sim.cleansing.cleanse_images import probabilities_of_others
from sgdphases.sim.data.label_noise.input_dependent import LEAST_PROBABILITY, mistakes_from
from sgdphases.sim.data.label_noise.transitions import check_fraction
from sgdphases.sim.data.parts import class_balanced_parts
from sgdphases.sim.recipe.choose import recipe_settings
from sgdphases.sim.run.settings import IMAGE, make_settings
from sgdphases.sim.run.streams import stream

PARTS = 2


def network_mistakes(
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    fraction: float,
    *,
    seed: int = 0,
    epochs: int | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """Labels of images, a share of them replaced by what a network that has not seen the image takes it for.

    The recipe for images is trained on one half of the samples and asked about the other, and the other way round.
    Samples are chosen without replacement with probabilities proportional to 1 - p_n(y_n), and each gets a class
    k != y_n with a probability proportional to p_n(k), as for the noise kind "input-dependent" (whose classifier is
    linear, which images are not).

    Parameters
    ----------
    x : ndarray, shape (N, height, width) or (N, channels, height, width)
    y : ndarray of int, shape (N,)
        The right labels, 0..K-1.
    n_classes : int
        K, at least 2.
    fraction : float in [0, 1]
        Exactly ``round(fraction * N)`` labels are wrong afterwards.
    seed : int
        Of the networks and of the draws.
    epochs : int, optional
        Of training; the recipe's own number if not given.
    device : str
        That the networks are trained on.

    Returns
    -------
    ndarray of int64, shape (N,)
        For `sgdphases.add_label_noise(data, kind="given", fraction=None, labels=...)`.

    Raises
    ------
    UsageError
        For images or classes that the recipe does not take, and a fraction that is none.
    """
    if n_classes < 2:
        raise UsageError(f"n_classes = {n_classes}: a mistake needs another class; give labels of two at least.")
    count = round(check_fraction(fraction) * len(y))
    rng = stream(seed, "labels")
    given = {"dataset": "arrays", "network": IMAGE, "seed": seed, "device": device}
    own = {} if epochs is None else {"epochs": epochs}
    settings = recipe_settings(make_settings(given | own), x.shape[1:], len(x) // PARTS)
    part, found = class_balanced_parts(y, PARTS, rng), np.empty((len(y), n_classes))
    for k in range(PARTS):
        asked = part == k
        found[asked] = probabilities_of_others(settings, x[~asked], y[~asked], n_classes, x[asked])
    return mistakes_from(np.maximum(found, LEAST_PROBABILITY), y, count, rng)
