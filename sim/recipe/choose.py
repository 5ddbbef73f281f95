"""When the recipe for images is taken, and what its settings are where none are given. Needs no PyTorch."""

from importlib.util import find_spec
from typing import Any

from sgdphases.estimators.errors import UsageError
from sgdphases.sim.run.schedule import steps_per_epoch
from sgdphases.sim.run.settings import IMAGE, RunSettings, check_batch_size, check_cross_entropy

LEAST_SIDE = 8  # pixels; smaller images have no room for the network
GREY_SIDE = 28  # pixels; grey images up to this size are learnt by a perceptron as well
LEAST_SAMPLES = 24  # to find wrong labels among: a third of them has to do for a network
LEAST_LEARNT = 8  # to learn from, as a part of them
LEAST_BATCH = 4  # no batch has fewer than half as many, and BatchNorm needs two
LEARNING_RATE, BATCH_SIZE = 0.05, 64
EPOCHS, LEAST_STEPS = 25, 2_000  # whichever is longer
COLOURS = 3


def takes_recipe(settings: RunSettings, shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape are learnt by the recipe.

    Where no network is named: colour images and images larger than 28x28, of 8x8 pixels at least. Naming hidden layers,
    an activation, or a backend other than torch asks for the perceptron; so does a machine without PyTorch.

    Parameters
    ----------
    settings : RunSettings
        As they were made: those given count, not their defaults.
    shape : tuple of int
        Of one sample.
    """
    given = settings.model_fields_set
    if "network" in given:
        return settings.network == IMAGE
    if given & {"hidden", "activation"} or ("backend" in given and settings.backend != "torch"):
        return False
    if len(shape) not in (2, 3) or min(shape[-2:]) < LEAST_SIDE or find_spec("torch") is None:
        return False
    return _is_colour(shape) or max(shape[-2:]) > GREY_SIDE


def recipe_epochs(n_samples: int, batch_size: int) -> int:
    """Epochs where nothing else is asked for: `EPOCHS`, or as many as make `LEAST_STEPS` steps."""
    return max(EPOCHS, -(-LEAST_STEPS // steps_per_epoch(n_samples, batch_size)))


def recipe_settings(settings: RunSettings, shape: tuple[int, ...], n_samples: int) -> RunSettings:
    """Settings of the recipe, what was not given filled in; nothing is left to "auto".

    Parameters
    ----------
    settings : RunSettings
        As they were made.
    shape : tuple of int
        Of one sample.
    n_samples : int
        N.

    Returns
    -------
    RunSettings
        With `IMAGE` for its network.

    Raises
    ------
    UsageError
        As `check_recipe` does; and for fewer than 24 samples.
    """
    _check_samples(n_samples, LEAST_SAMPLES)
    given = settings.model_fields_set
    own: dict[str, Any] = {"network": IMAGE, "backend": "torch"}
    if settings.augment == "auto":
        own["augment"] = default_augment(shape)
    if "learning_rate" not in given:
        own["learning_rate"] = LEARNING_RATE
    batch_size = settings.batch_size if "batch_size" in given else min(BATCH_SIZE, n_samples)
    own["batch_size"] = batch_size
    if "epochs" not in given:
        own["epochs"] = recipe_epochs(n_samples, batch_size)
    made = settings.model_copy(update=own)
    check_recipe(made, shape, n_samples)
    return made


def default_augment(shape: tuple[int, ...]) -> str:
    """Colour images are taken for photographs, which may be mirrored; in grey ones there may be digits or letters."""
    return "shifts+mirror" if _is_colour(shape) else "shifts"


def check_recipe(settings: RunSettings, shape: tuple[int, ...], n_samples: int) -> None:
    """Refuse what the recipe cannot learn.

    Raises
    ------
    UsageError
        For samples that are no images or too small, too few samples or too small batches, and settings that the recipe
        does not know.
    """
    if len(shape) not in (2, 3) or min(shape) < 1 or min(shape[-2:]) < LEAST_SIDE:
        raise UsageError(
            f"network = '{IMAGE}' takes images of {LEAST_SIDE}x{LEAST_SIDE} pixels at least, and a sample here has the "
            f"shape {shape}: choose network = 'mlp', or data of the shape (channels, height, width)."
        )
    _check_samples(n_samples, LEAST_LEARNT)
    check_batch_size(settings, n_samples)
    if settings.batch_size < LEAST_BATCH:
        raise UsageError(
            f"batch_size = {settings.batch_size}: network = '{IMAGE}' normalises over a batch, and needs {LEAST_BATCH} "
            "samples in it at least."
        )
    if settings.activation != "relu":
        raise UsageError(
            f"activation = {settings.activation!r} has no effect on network = '{IMAGE}', which has relu: leave it out."
        )
    check_cross_entropy(settings)


def check_no_augment(settings: RunSettings) -> None:
    """Raise UsageError where augmentation is asked for of a network that knows none."""
    if settings.augment != "auto" and settings.network != IMAGE:
        raise UsageError(
            f"augment = {settings.augment!r} has no effect on network = {settings.network!r}: leave it out, or choose "
            f"network = '{IMAGE}'."
        )


def _check_samples(n_samples: int, least: int) -> None:
    if n_samples < least:
        raise UsageError(
            f"network = '{IMAGE}' needs {least} samples at least, not {n_samples}: give more, or choose "
            "network = 'mlp'."
        )


def _is_colour(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] == COLOURS
