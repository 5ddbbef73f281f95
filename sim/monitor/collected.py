"""The samples that are watched, collected from the user's loader without disturbing what it gives to training."""

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.utils.data import IterableDataset, SubsetRandomSampler, WeightedRandomSampler, default_collate

from sgdphases.estimators.backend import to_numpy
from sgdphases.estimators.ensemble.checks import check_mask
from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.estimators.nested import each_leaf, is_named, named_parts, parts, remade
from sgdphases.sim.monitor.undisturbed import undisturbed

log = logging.getLogger("sgdphases")
Split = Callable[[Any], tuple[Any, Any]]
Data = tuple[Any, np.ndarray | None]
"""Inputs, an array or a structure of arrays, and targets."""


class Source(Protocol):
    """What a loader draws from.

    ``batch_size``: samples in a batch, None where unknown; ``batches``: in an epoch, None where unknown.
    """

    batch_size: int | None
    batches: int | None

    def total(self, given: int | None) -> int:
        """Samples in an epoch, as they are or as they are given."""

    def choose(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Numbers of n samples, or of all where there are fewer."""

    def everything(self) -> np.ndarray | None:
        """Numbers of all samples; None where they have none."""

    def mask(self, given: np.ndarray) -> np.ndarray:
        """A mask over the samples, shape (N,), checked; an InputError or a UsageError where it does not fit."""

    def populations(self, mask: np.ndarray) -> tuple[int, int]:
        """How many samples of the training set are outside and inside a mask."""

    def collect(self, numbers: np.ndarray | None, split: Split) -> Data:
        """Inputs and targets of some samples, None for all."""


def source_of(loader: Any) -> Source:
    """What a loader draws from: a data set that is indexed, or a stream of samples or batches.

    Raises
    ------
    UsageError
        For what can be iterated only once.
    """
    dataset = getattr(loader, "dataset", None)
    if dataset is not None and not isinstance(dataset, IterableDataset) and hasattr(dataset, "__getitem__"):
        return _Indexed(loader)
    if isinstance(loader, Iterator) or not isinstance(loader, Iterable):
        raise UsageError(
            f"the loader, a {type(loader).__name__}, can be iterated only once, and training needs what it gives: give "
            "a DataLoader, a list of batches, or anything that starts from its beginning each time it is iterated."
        )
    return _Stream(loader)


class _Indexed:
    """A data set with numbered samples; the loader's own order does not matter."""

    def __init__(self, loader: Any):
        self._loader, self.batch_size = loader, getattr(loader, "batch_size", None)
        sampler = getattr(loader, "sampler", None)
        try:
            everything = np.arange(len(loader.dataset))
        except TypeError:
            raise UsageError("the loader's dataset can be indexed but has no length: give it a __len__.") from None
        part = isinstance(sampler, SubsetRandomSampler)
        self._population = np.unique(np.asarray(sampler.indices)) if part else everything  # type: ignore[union-attr]
        if isinstance(sampler, WeightedRandomSampler):
            log.warning("the loader draws samples with unequal weights: measured is the training set without them")
        self.batches = len(loader) if isinstance(loader, Sized) else None

    def total(self, given: int | None) -> int:
        n = len(self._population)
        if given not in (None, n):
            raise UsageError(f"n_training = {given}, but the loader's dataset has {n} samples: leave it out.")
        return n

    def choose(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return np.sort(rng.permutation(self._population)[:n])

    def everything(self) -> np.ndarray | None:
        return self._population

    def mask(self, given: np.ndarray) -> np.ndarray:
        found = check_mask(given, len(self._loader.dataset))
        assert found is not None
        return found

    def populations(self, mask: np.ndarray) -> tuple[int, int]:
        inside = int(mask[self._population].sum())
        return len(self._population) - inside, inside

    def collect(self, numbers: np.ndarray | None, split: Split) -> Data:
        chosen = self._population if numbers is None else numbers
        collate = getattr(self._loader, "collate_fn", None) or default_collate
        return arrays_of(split(collate([self._loader.dataset[int(index)] for index in chosen])))


class _Stream:
    """Samples or batches that come in an order of their own: the first ones of a fresh iteration.

    A data set that is iterated is copied first (not what it holds), so that counters of its own stay as they are; where
    two fresh iterations begin differently from the same random state, something is used up, and that is refused.
    """

    def __init__(self, loader: Any):
        self._loader = loader
        self._dataset = getattr(loader, "dataset", None)
        self._by_sample = self._dataset is not None and getattr(loader, "batch_size", None) is not None
        try:
            self.batches: int | None = len(loader)
        except TypeError:
            self.batches = None
        with undisturbed(nn.Identity(), loader):
            if self._dataset is not None and iter(_copy(self._dataset)) is iter(_copy(self._dataset)):
                self._refuse()
            self._start = next(self._items(), None)
        if self._start is None:
            raise InputError("the loader gives no samples: nothing to measure.")
        self.batch_size = loader.batch_size if self._by_sample else _n_samples(self._start)

    def total(self, given: int | None) -> int:
        if given is not None:
            return given
        if self._dataset is None and self.batches is not None:
            return sum(_n_samples(batch) for batch in self._loader)
        try:
            return len(self._dataset)  # type: ignore[arg-type]
        except TypeError:
            raise UsageError(
                "the loader's dataset has no length: give n_training=..., the number of samples in an epoch."
            ) from None

    def choose(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return np.arange(n)

    def everything(self) -> np.ndarray | None:
        return None

    def mask(self, given: np.ndarray) -> np.ndarray:
        if self._dataset is not None:
            raise UsageError("wrong= needs samples with numbers: the loader's dataset cannot be indexed.")
        found = check_mask(given, self.total(None))
        assert found is not None
        return found

    def populations(self, mask: np.ndarray) -> tuple[int, int]:
        return int((~mask).sum()), int(mask.sum())

    def collect(self, numbers: np.ndarray | None, split: Split) -> Data:
        wanted = None if numbers is None else len(numbers)
        if self._by_sample:
            items = list(islice(self._items(), wanted))
            collate = getattr(self._loader, "collate_fn", None) or default_collate
            batches = [collate(items)] if items else []
        else:
            items = batches = self._batches(wanted)
        if not items or not _same(self._start, items[0]):
            self._refuse()
        pairs = [arrays_of(split(batch)) for batch in batches]
        inputs = _joined([inputs for inputs, _ in pairs])
        targets = None if pairs[0][1] is None else _joined([targets for _, targets in pairs])
        if wanted is not None and _n_samples(inputs) < wanted:
            raise InputError(
                f"the loader ends after {_n_samples(inputs)} samples where {wanted} were expected: give "
                "n_training=..., the number of samples in an epoch."
            )
        return _first(inputs, wanted), _first(targets, wanted)

    def _batches(self, wanted: int | None) -> list[Any]:
        found: list[Any] = []
        held = 0
        for batch in self._items():
            found.append(batch)
            held += _n_samples(batch)
            if wanted is not None and held >= wanted:
                break
        return found

    def _items(self) -> Iterator[Any]:
        if self._dataset is None:
            return iter(_copy(self._loader))
        fresh = iter(_copy(self._dataset))
        if self._by_sample or not getattr(self._loader, "collate_fn", None):
            return fresh
        return map(self._loader.collate_fn, fresh)

    def _refuse(self) -> None:
        raise UsageError(
            f"the loader's stream, a {type(self._dataset or self._loader).__name__}, does not start from its beginning "
            "when it is iterated: measuring would take samples away from training. Give a list of batches and "
            "n_training=..., or a stream that starts from its beginning each time."
        )


def _copy(stream: Any) -> Any:
    """A copy that shares what it holds, where there is such a thing."""
    try:
        return copy.copy(stream)
    except TypeError:
        return stream


def arrays_of(pair: tuple[Any, Any]) -> Data:
    """Inputs, nested as they are, and targets as arrays."""
    inputs, targets = pair
    return each_leaf(inputs, lambda leaf: None if leaf is None else to_numpy(leaf)), (
        None if targets is None else to_numpy(targets)
    )


def inputs_and_targets(batch: Any) -> tuple[Any, Any]:
    """Inputs and targets of a batch that is a pair, or names its labels; a UsageError for any other.

    A dictionary less its labels is for a model that takes keywords, a dataclass or a named tuple too; what has one
    other field is the model's only argument.
    """
    named = named_parts(batch) if is_named(batch) else {}
    for name in ("labels", "label"):
        if name in named:
            others = {key: values for key, values in named.items() if key != name}
            is_only = len(others) == 1 and not isinstance(batch, Mapping)
            return (next(iter(others.values())) if is_only else others), named[name]
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        inputs, targets = batch
        return tuple(inputs) if isinstance(inputs, list) else inputs, targets
    kind = f"{type(batch).__name__} with {', '.join(map(str, named))}" if named else type(batch).__name__
    raise UsageError(
        f"the loader's batches ({kind}) are neither pairs of inputs and targets nor dictionaries, dataclasses or named "
        "tuples with labels: give split=, a function that gives inputs and targets of a batch, or loss_of=."
    )


def _n_samples(batch: Any) -> int:
    """Samples in a batch: the length of its first array."""
    inside = parts(batch)
    if inside is not None:
        return next((n for n in map(_n_samples, inside.values()) if n), 0)
    return len(batch) if getattr(batch, "ndim", 0) else 0


def _joined(pieces: list[Any]) -> Any:
    """Batches one after the other."""
    inside = parts(pieces[0])
    if inside is not None:
        columns = zip(*((parts(piece) or {}).values() for piece in pieces), strict=True)
        return remade(pieces[0], [_joined(list(column)) for column in columns])
    if pieces[0] is None:
        return None
    if len({piece.shape[1:] for piece in pieces}) > 1:
        raise InputError(
            f"the loader's batches have samples of different shapes ({pieces[0].shape[1:]} and others): pad them all "
            "to the same length, such as by a collate_fn, so that they can be measured together."
        )
    return np.concatenate(pieces)


def _first(values: Any, n: int | None) -> Any:
    return each_leaf(values, lambda leaf: leaf if leaf is None else leaf[:n])


def _same(one: Any, other: Any) -> bool:
    """Whether two samples or batches are equal."""
    inside, others = parts(one), parts(other)
    if inside is not None:
        return others is not None and list(inside) == list(others) and all(_same(inside[k], others[k]) for k in inside)
    if isinstance(one, (torch.Tensor, np.ndarray)):
        a, b = to_numpy(one), to_numpy(other)
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f")
    return bool(one == other)
