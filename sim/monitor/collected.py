"""The samples that are watched, collected from somebody's loader."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, default_collate

from sgdphases.estimators.backend import to_arrays, to_numpy
from sgdphases.estimators.errors import UsageError


def length(loader: DataLoader) -> int:
    """Samples of a loader's data set; a UsageError where it has no length."""
    try:
        return len(loader.dataset)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError("the loader's dataset cannot be indexed: give one with a length.") from None


def collected(loader: DataLoader, indices: np.ndarray | None, split: Callable) -> tuple[Any, np.ndarray | None]:
    """Inputs and targets of some samples, None for all, past the loader's own sampling."""
    chosen = np.arange(length(loader)) if indices is None else indices
    collate = loader.collate_fn or default_collate
    inputs, targets = split(collate([loader.dataset[int(index)] for index in chosen]))
    return to_arrays(inputs), None if targets is None else to_numpy(targets)


def inputs_and_targets(batch: Any) -> tuple[Any, Any]:
    """Inputs and targets of a batch that is a pair, or a dictionary with labels; a UsageError for any other."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        inputs, targets = batch
        return tuple(inputs) if isinstance(inputs, list) else inputs, targets
    if isinstance(batch, Mapping):
        for name in ("labels", "label"):
            if name in batch:
                return {key: values for key, values in batch.items() if key != name}, batch[name]
    kind = f"keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else f"{type(batch).__name__}"
    raise UsageError(
        f"the loader's batches ({kind}) are neither pairs of inputs and targets nor dictionaries with labels: give "
        "split=, a function that gives inputs and targets of a batch, or loss_of=."
    )
