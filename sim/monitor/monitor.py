"""Order parameters along anybody's PyTorch training loop, which runs on as if nobody had looked."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate

from sgdphases.estimators.backend import to_numpy
from sgdphases.estimators.backends.torch.backend import TorchBackend
from sgdphases.estimators.ensemble.checks import check_mask
from sgdphases.estimators.ensemble.scores import mean_scores
from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.measure import measure_backend
from sgdphases.sim.run.streams import stream
from sgdphases.sim.run.trajectory import trajectory_dataset
from sgdphases.sim.storage.netcdf import write_netcdf


class PhaseMonitor:
    """Measures a model at log-spaced steps of its training, on a fixed subset of its training set.

    Two lines in a training loop::

        monitor = PhaseMonitor(model, loss_fn, train_loader, wrong=mask, out="runs/mine")
        ...
                optimizer.step()
                monitor.step()

    Training goes on bit by bit as without it: random streams, gradients, train and eval modes, buffers and hooks are
    left as they were found. Dropout is off and BatchNorm uses its running statistics while it looks.

    Parameters
    ----------
    model : torch.nn.Module
    loss_fn : callable
        ``loss_fn(outputs, targets)``, the mean of the samples' losses, as training uses it.
    loader : torch.utils.data.DataLoader
        Of the training set, whose dataset can be indexed: pairs of input and target.
    wrong : array of bool, shape (len(loader.dataset),), or None
        Samples with wrong labels.
    test_loader : DataLoader or None
        For the test loss and error.
    out : str, Path or None
        Folder in which ``trajectory.nc`` is kept up to date; None keeps it in memory only.
    n_samples : int
        Of the subset; the whole training set where it is smaller.
    batch_size : int or None
        B; None takes the loader's.
    per_decade : int
        Measurements for every tenfold growth of the number of steps.
    alignment_batches : int
        Minibatches drawn for each sampled alignment; 0 for none, otherwise at least 3.
    seed : int
        Of the choice of the subset and of those minibatches.
    **options : passed on to `TorchBackend`
        Such as ``parameters="layers.1.weight"``.

    Raises
    ------
    UsageError
        If the loader has no batch size or indexable dataset, or the loss is not a mean over samples.
    InputError
        If mask, data and model do not fit together.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable,
        loader: DataLoader,
        *,
        wrong: Any = None,
        test_loader: DataLoader | None = None,
        out: str | Path | None = None,
        n_samples: int = 2000,
        batch_size: int | None = None,
        per_decade: int = 15,
        alignment_batches: int = 16,
        seed: int = 0,
        **options: Any,
    ):
        size = batch_size or loader.batch_size
        if size is None:
            raise UsageError("the loader has a batch sampler of its own: say batch_size=... .")
        if per_decade < 1:
            raise UsageError(f"per_decade = {per_decade}: choose at least 1 measurement for a tenfold number of steps.")
        self._model, self._loader, self._per_decade = model, loader, per_decade
        self._alignment_batches, self._seed = alignment_batches, seed
        self._path = None if out is None else Path(out) / "trajectory.nc"
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        total = _length(loader)
        mask = check_mask(None if wrong is None else to_numpy(wrong), total)
        chosen = np.sort(stream(seed, "data").permutation(total)[:n_samples])
        self._wrong = None if mask is None else mask[chosen]
        self._batch_size = min(size, len(chosen))
        with undisturbed(model):
            x, y = _collected(loader, chosen)
            self._backend = TorchBackend(model, x, y, loss=_known_loss(loss_fn), **{"batch_norm": "frozen", **options})
            _check_mean(self._backend, loss_fn)
            self._test = None if test_loader is None else self._backend.on(*_collected(test_loader, None))
        self._rows: dict[str, list[float]] = {}
        self._steps = 0
        self._measure()

    def step(self) -> None:
        """Count a training step, and measure where one is due."""
        self._steps += 1
        place = self._per_decade * np.log10(self._steps)
        if self._steps == 1 or int(place) > int(self._per_decade * np.log10(self._steps - 1)):
            self._measure()

    def measure_now(self) -> None:
        """Measure at the present step, such as the last one; nothing if it is measured already."""
        if self._rows["step"][-1] != self._steps:
            self._measure()

    @property
    def trajectory(self) -> xr.Dataset:
        """What has been measured so far, as ``trajectory.nc`` holds it."""
        rows = {name: np.array(values) for name, values in self._rows.items()}
        loss = 'loss = "cross-entropy"\n' if self._backend.loss == "cross-entropy" else ""
        return trajectory_dataset(rows, len(self._loader), loss)

    def _measure(self) -> None:
        with undisturbed(self._model):
            found = measure_backend(
                self._backend,
                batch_size=self._batch_size,
                wrong=self._wrong,
                alignment_batches=self._alignment_batches,
                rng=stream(self._seed, "alignment", self._steps),
            ).scalars()
            loss, error = (float("nan"),) * 2 if self._test is None else mean_scores(self._test)
            found |= {"test_loss": loss, "test_error": error}
        for name, value in {"step": float(self._steps), **found}.items():
            self._rows.setdefault(name, []).append(value)
        if self._path is not None:
            write_netcdf(self._path, self.trajectory)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put back random streams, gradients, modes and buffers on leaving."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_devices:
            torch.cuda.set_rng_state_all(on_devices)
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _length(loader: DataLoader) -> int:
    try:
        return len(loader.dataset)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError("the loader's dataset cannot be indexed: give one with a length.") from None


def _collected(loader: DataLoader, indices: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of some samples, None for all, past the loader's own sampling."""
    chosen = np.arange(_length(loader)) if indices is None else indices
    collate = loader.collate_fn or default_collate
    batch = collate([loader.dataset[int(index)] for index in chosen])
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
        raise UsageError("the dataset must give pairs of input and target.")
    return to_numpy(batch[0]), to_numpy(batch[1])


def _known_loss(loss_fn: Callable) -> Any:
    """The name of PyTorch's plain cross-entropy, which is faster by name; any other loss as it is."""
    if loss_fn is F.cross_entropy:
        return "cross-entropy"
    plain, settings = nn.CrossEntropyLoss(), ("weight", "ignore_index", "reduction", "label_smoothing")
    if type(loss_fn) is nn.CrossEntropyLoss and all(getattr(loss_fn, s) == getattr(plain, s) for s in settings):
        return "cross-entropy"
    return loss_fn


def _check_mean(backend: TorchBackend, loss_fn: Callable) -> None:
    few = np.arange(min(8, backend.n_samples))
    losses, outputs, targets = backend.raw_losses(few)
    together = float(loss_fn(outputs, targets))
    if abs(together - float(losses.mean())) > 1e-3 * max(1.0, abs(together)):
        raise UsageError(
            f"the loss of {len(few)} samples is {together:.4g}, but their mean loss is {float(losses.mean()):.4g}: "
            "give a loss that is a mean over samples (reduction='mean', no class weights)."
        )
