"""What every measurement of an ensemble of minibatches checks first."""

import numpy as np

from sgdphases.estimators.errors import InputError, UsageError

ENSEMBLES = ("plain", "stratified")


def check_ensemble(n_samples: int, batch_size: int, replacement: bool, ensemble: str, known: bool) -> None:
    """Raise a UsageError where no such ensemble of minibatches exists."""
    if ensemble not in ENSEMBLES:
        raise UsageError(f"ensemble = {ensemble!r}: choose one of {', '.join(ENSEMBLES)}.")
    if ensemble == "stratified" and not known:
        raise UsageError("ensemble = 'stratified' needs to know which labels are wrong: give the mask `wrong`.")
    if batch_size != batch_size or int(batch_size) != batch_size or batch_size < 1:
        raise UsageError(f"batch_size = {batch_size}: give a whole number of samples, at least 1.")
    if not replacement and batch_size > n_samples:
        raise UsageError(
            f"batch_size = {batch_size} exceeds the {n_samples} samples: choose at most {n_samples}, "
            f"or draw with replacement."
        )


def check_mask(wrong: np.ndarray | None, n_samples: int) -> np.ndarray | None:
    """The mask of wrong labels as booleans.

    Raises
    ------
    InputError
        If it is not one boolean a sample.
    """
    if wrong is None:
        return None
    mask = np.asarray(wrong)
    if mask.dtype != bool or mask.shape != (n_samples,):
        raise InputError(
            f"wrong has dtype {mask.dtype} and shape {mask.shape}: give one boolean a sample, shape ({n_samples},)."
        )
    return mask
