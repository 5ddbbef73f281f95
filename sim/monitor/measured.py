"""One measurement of the user's model, on the watched samples and on the test set."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import nn
from torch.nn import functional as F

from sgdphases.estimators.backend import SampleGradients, Scores, chunks, to_numpy
from sgdphases.estimators.backends.torch.backend import TorchBackend
from sgdphases.estimators.ensemble.scores import all_scores
from sgdphases.estimators.ensemble.subset import LEAST
from sgdphases.estimators.ensemble.workers import Workers
from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.estimators.measure import measure_backend, measure_subset_backend
from sgdphases.sim.monitor.collected import Data, Split, inputs_and_targets, source_of
from sgdphases.sim.monitor.processes import Processes
from sgdphases.sim.run.streams import stream
from sgdphases.sim.run.trajectory import error_sizes

log = logging.getLogger("sgdphases")
SUBSET = 2000  # samples measured unless more are asked for, or needed
BATCHES = 8  # disjoint minibatches that the subset holds at least, for the alignment R


class Measurement(NamedTuple):
    """Every order parameter by name, the watched samples' losses and whether each is right (1, 0 or NaN), shape (n,),
    the classes they are given (-1 where there are none), and how the test samples do."""

    scalars: dict[str, float]
    losses: np.ndarray
    right: np.ndarray
    answers: np.ndarray
    tested: Scores | None


class Measured:
    """A model as it is at each moment, and the samples it is measured on.

    Parameters
    ----------
    model : torch.nn.Module
    loss : str or callable
    data : tuple
        Inputs and targets of the watched samples.
    test_data : tuple or None
    options : dict
        Of `TorchBackend`.
    batch_size, alignment_batches : int
    wrong : ndarray of bool, shape (n,), or None
        Of the watched samples.
    numbers : ndarray of int, shape (n,)
        Which samples of the data set are watched.
    processes : Processes
        Those that share in the samples: data and mask are those of this one.
    sizes : sequence of int
        N, or with ``wrong`` the numbers of samples with right and wrong labels in the whole training set.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: str | Callable,
        data: tuple,
        test_data: tuple | None,
        options: dict[str, Any],
        *,
        batch_size: int,
        alignment_batches: int,
        wrong: np.ndarray | None,
        sizes: Sequence[int],
        numbers: np.ndarray,
        processes: Processes,
    ):
        self.model, self.numbers, self._processes = model, numbers, processes
        self._loss, self._data, self._test_data, self._options = loss, data, test_data, options
        self.batch_size, self._alignment_batches = batch_size, alignment_batches
        self._wrong, self._sizes = wrong, sizes
        self._rebuild()
        self._workers = processes.workers(self._backend.n_samples)
        self.n_samples = self._backend.n_samples if self._workers is None else self._workers.total
        self.labels = _of_all(self._workers, self._backend.labels).astype(int)
        self.wrong = None if wrong is None else _of_all(self._workers, wrong).astype(bool)
        self.test_labels = np.empty(0, int)
        self._test_workers = None
        if self._test is not None:
            self._test_workers = processes.workers(self._test.n_samples)
            self.test_labels = _of_all(self._test_workers, self._test.labels).astype(int)

    @property
    def loss(self) -> str | Callable:
        return self._backend.loss

    def __call__(self, step: int, rng: np.random.Generator | None) -> "Measurement":
        """Measure: losses, errors and answers alone without ``rng``.

        Layers replaced, added, frozen or unfrozen since the last measurement are measured as they now are.
        """
        self._processes.share_model(self.model)  # whoever calls this puts the buffers back
        self._take_up_changes(step)
        found = self._errors() if rng is None else self._order_parameters(rng)
        tested = None
        if self._test is not None:
            tested = Scores(*(_of_all(self._test_workers, values) for values in all_scores(self._test)))
        return found._replace(answers=_of_all(self._workers, found.answers).astype(int), tested=tested)

    def _order_parameters(self, rng: np.random.Generator) -> "Measurement":
        backend: Any = _Listening(self._backend)
        common: dict[str, Any] = dict(
            batch_size=self.batch_size,
            wrong=self._wrong,
            alignment_batches=self._alignment_batches,
            rng=rng,
            workers=self._workers,
        )
        if self.n_samples == sum(self._sizes):
            found = measure_backend(backend, **common)
        else:
            found = measure_subset_backend(backend, **common, sizes=self._sizes)
        losses, right = (_of_all(self._workers, values) for values in (backend.losses, backend.right))
        return Measurement(found.scalars(), losses, right, backend.answers, None)

    def _errors(self) -> "Measurement":
        """What a forward pass alone gives, of the whole training set."""
        places = chunks(np.arange(self._backend.n_samples), self._backend.chunk_size)
        scores, answers = zip(*(self._backend.judged(piece) for piece in places), strict=True)
        loss, right = (_of_all(self._workers, np.concatenate(part)) for part in zip(*scores, strict=True))
        error = 1 - right
        found = {"loss": float(loss.mean()), "train_error": float(error.mean())}
        if self.wrong is not None:
            total = np.array(self._sizes)
            found["noise_fraction"] = float(total[1] / total.sum())
            for name, values in (("loss", loss), ("error", error)):
                parts = [values[chosen].mean() if chosen.any() else np.nan for chosen in (~self.wrong, self.wrong)]
                found |= {f"{name}_c": float(parts[0]), f"{name}_w": float(parts[1])}
                found["loss" if name == "loss" else "train_error"] = float(np.nansum(total * parts) / total.sum())
        return Measurement(found, loss, right, np.concatenate(answers), None)

    def sizes(self) -> dict[str, float]:
        """Numbers of samples, and what the sampling noise of errors is judged by, where there are classes."""
        train, test = self.labels, self.test_labels
        found: dict[str, float] = {"n_samples": self.n_samples, "n_training": sum(self._sizes)}
        found["batch_size"] = self.batch_size
        if not len(train) or min(train.min(), test.min(initial=0)) < 0:
            return found
        return found | error_sizes(train, test, int(max(train.max(), test.max(initial=0))) + 1)

    def _rebuild(self) -> None:
        self._backend = TorchBackend(self.model, *self._data, loss=self._loss, **self._options)
        self._test = None if self._test_data is None else self._backend.on(*self._test_data)

    def _take_up_changes(self, step: int) -> None:
        try:
            self._backend.check_unchanged()
        except UsageError:
            log.info("the model has changed by step %d: it is measured as it is now", step)
            self._rebuild()


def measured(
    model: nn.Module,
    loss_fn: Callable | None,
    loader: Any,
    test_loader: Any,
    options: dict[str, Any],
    processes: Processes,
    *,
    wrong: Any,
    n_samples: int | None,
    n_training: int | None,
    batch_size: int | None,
    accumulation: int,
    steps_per_epoch: int | None,
    alignment_batches: int,
    seed: int,
    split: Split | None,
) -> tuple[Measured, int]:
    """A model on the samples of the user's loaders, and the steps of the optimizer in an epoch: see `PhaseMonitor`."""
    if accumulation < 1:
        raise UsageError(f"accumulation = {accumulation}: give the batches of a step of the optimizer, at least 1.")
    source = source_of(loader)
    size = batch_size
    if size is None:
        if source.batch_size is None:
            raise UsageError("the loader has a batch sampler of its own: give batch_size=... .")
        size = source.batch_size * accumulation * processes.size
    total = source.total(n_training)
    _check(seed=seed, batch_size=size, n_samples=n_samples, total=total)
    steps = -(-total // size)
    if source.batches is not None and processes.size == 1:
        steps = -(-source.batches // accumulation)
    if options.get("loss_of") is not None:
        split = _whole
    split = split or inputs_and_targets
    mask = None if wrong is None else source.mask(to_numpy(wrong))
    chosen = source.choose(min(n_samples or max(SUBSET, BATCHES * size), total), stream(seed, "data"))
    data = source.collect(processes.share(chosen), split)
    if source.everything() is None:
        processes.refuse_same(data)
    made = Measured(
        model,
        "cross-entropy" if loss_fn is None else _known_loss(loss_fn, data[1]),
        data,
        None if test_loader is None else _test_data(test_loader, processes, split),
        options,
        batch_size=size,
        alignment_batches=alignment_batches,
        wrong=None if mask is None else processes.share(mask[chosen]),
        sizes=(total,) if mask is None else source.populations(mask),
        numbers=chosen,
        processes=processes,
    )
    return made, steps if steps_per_epoch is None else steps_per_epoch


def _whole(batch: Any) -> tuple[Any, None]:
    return batch, None


def _test_data(loader: Any, processes: Processes, split: Split) -> Data:
    source = source_of(loader)
    numbers = source.everything()
    if numbers is None and processes.size > 1:
        raise UsageError(
            "test_loader's dataset cannot be indexed, so processes cannot share it out: give one that can."
        )
    return source.collect(None if numbers is None else processes.share(numbers), split)


class _Listening:
    """A backend that remembers its samples' losses and answers when they pass by: no pass is made for them."""

    def __init__(self, backend: TorchBackend):
        self._backend = backend
        self.losses, self.right = np.full((2, backend.n_samples), np.nan)
        self.answers = np.full(backend.n_samples, -1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def gradient_sums(self, indices: np.ndarray) -> SampleGradients:
        found, self.answers[indices] = self._backend.judged_gradient_sums(indices)
        self.losses[indices], self.right[indices] = found.loss, found.correct
        return found


def _of_all(workers: Workers | None, values: np.ndarray) -> np.ndarray:
    return values if workers is None else workers.gather(values)


def _check(*, seed: int, batch_size: int, n_samples: int | None, total: int) -> None:
    if seed < 0:
        raise UsageError(f"seed = {seed}: give 0 or a positive whole number.")
    if batch_size < 1:
        raise UsageError(f"batch_size = {batch_size}: give at least 1.")
    if total == 0:
        raise InputError("the loader's dataset is empty: give one with samples.")
    if n_samples is not None and n_samples < min(LEAST, total):
        raise UsageError(f"n_samples = {n_samples}: measure at least {min(LEAST, total)} samples.")
    measured = total if n_samples is None else min(n_samples, total)
    if batch_size > measured:
        raise UsageError(
            f"batch_size = {batch_size} exceeds the {measured} samples measured: choose n_samples of at least "
            f"{BATCHES} minibatches, or a batch size of at most that."
        )


def _known_loss(loss_fn: Callable, targets: np.ndarray | None) -> Any:
    """The name of PyTorch's plain cross-entropy of one class a sample, which is faster by name; any other as it is."""
    if targets is None or targets.ndim != 1 or targets.dtype.kind not in "iu":
        return loss_fn  # classes by position, or soft targets
    if loss_fn is F.cross_entropy:
        return "cross-entropy"
    plain, settings = nn.CrossEntropyLoss(), ("weight", "ignore_index", "reduction", "label_smoothing")
    if type(loss_fn) is nn.CrossEntropyLoss and all(getattr(loss_fn, s) == getattr(plain, s) for s in settings):
        return "cross-entropy"
    return loss_fn
