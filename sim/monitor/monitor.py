"""Order parameters along anybody's PyTorch training loop, which runs on as if nobody had looked."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from sgdphases.estimators.backend import to_numpy
from sgdphases.estimators.cleansing.from_losses import LabelsFromLosses, find_wrong_labels_from_losses
from sgdphases.estimators.ensemble.checks import check_mask
from sgdphases.estimators.ensemble.subset import LEAST
from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.estimators.phases.find import find_phases
from sgdphases.estimators.phases.now import PhaseNow, phase_now
from sgdphases.estimators.phases.records import Phases
from sgdphases.sim.monitor.collected import collected, inputs_and_targets, length
from sgdphases.sim.monitor.loggers import logger_of
from sgdphases.sim.monitor.measured import Measured
from sgdphases.sim.monitor.record import Record
from sgdphases.sim.monitor.schedule import Schedule
from sgdphases.sim.monitor.undisturbed import undisturbed
from sgdphases.sim.run.streams import stream
from sgdphases.sim.run.trajectory import lost_samples
from sgdphases.sim.storage.claims import Claim, claim_new
from sgdphases.sim.storage.netcdf import write_netcdf

SUBSET = 2000  # samples measured unless more are asked for, or needed
WRITE_SECONDS = 5.0  # how old the file may grow while training goes on: writing it takes a tenth of a second
BATCHES = 8  # disjoint minibatches that the subset holds at least, for the alignment R


class PhaseMonitor:
    """Measures a model at log-spaced steps of its training.

    Where the training set is larger than ``n_samples``, it is measured on a fixed random subset: estimates are those of
    the whole set, unbiased, with a standard error each (`measure_subset`).

    Two lines in a training loop::

        monitor = PhaseMonitor(model, loss_fn, train_loader, test_loader=test_loader)
        ...
                optimizer.step()
                monitor.step()

    ``print(monitor.phase)`` says where the network is now, ``monitor.phases`` what it went through, and
    ``monitor.wrong_labels()`` which labels are suspect.

    Training goes on bit by bit as without it: random streams (those a data set or its transforms hold, too), gradients,
    train and eval modes, buffers and hooks are left as they were found. Dropout is off and BatchNorm uses its running
    statistics during a measurement. A measurement that fails does not end the training: the monitor warns once, and
    measures no more. Layers that are replaced, frozen or unfrozen meanwhile are taken up.

    Parameters
    ----------
    model : torch.nn.Module
    loss_fn : callable or None
        ``loss_fn(outputs, targets)``, the mean of the samples' losses, as training uses it; None with ``loss_of``.
    loader : torch.utils.data.DataLoader
        Of the training set, whose dataset can be indexed: pairs of inputs and targets, where inputs may be a tuple or a
        dictionary for a model that takes several tensors or keywords; or dictionaries that hold the targets as
        "labels" or "label", as Hugging Face has them. See ``split`` for others.
    wrong : array of bool, shape (len(loader.dataset),), or None
        Samples with wrong labels.
    test_loader : DataLoader or None
        For the test loss and error.
    out : str, Path or None
        New folder in which ``trajectory.nc`` is kept, at most seconds behind, and up to date after `measure_now`; None
        keeps it in memory only.
    n_samples : int or None
        Of the subset; the whole training set where it is smaller. None takes 2,000, or eight minibatches if that is
        more. R is NaN where it holds fewer than six minibatches.
    batch_size : int or None
        B, at most the subset's size; None takes the loader's.
    per_decade : int
        Measurements for every tenfold growth of the number of steps.
    alignment_batches : int
        Minibatches drawn for each sampled alignment; 0 for none, otherwise at least 3.
    seed : int
        Of the choice of the subset and of those minibatches.
    split : callable or None
        Gives inputs and targets of a batch, where it is neither a pair nor a dictionary with labels.
    loss_of : callable or None
        ``loss_of(model, batch)`` gives the losses of a batch's samples, shape (n,), for whatever else a model needs;
        training minimises their mean. There are no errors then, and so no phases.
    log : callable, logger or None
        Takes every measurement as it comes: a function of step, scalars by name and the phase as text; TensorBoard's
        SummaryWriter, a W&B run, mlflow, or a Lightning logger (`logger_of`).
    **options : passed on to `TorchBackend`
        Such as ``parameters="layers.1.weight"``, or ``output="logits"`` for a model that answers with more than a
        tensor.

    Raises
    ------
    UsageError
        If the loader has no batch size or indexable dataset, the loss is not a mean over samples, or the folder holds
        anything.
    InputError
        If mask, data and model do not fit together.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable | None,
        loader: DataLoader,
        *,
        wrong: Any = None,
        test_loader: DataLoader | None = None,
        out: str | Path | None = None,
        n_samples: int | None = None,
        batch_size: int | None = None,
        per_decade: int = 15,
        alignment_batches: int = 16,
        seed: int = 0,
        split: Callable | None = None,
        loss_of: Callable | None = None,
        log: Any = None,
        **options: Any,
    ):
        self._log = None if log is None else logger_of(log)
        if (loss_fn is None) == (loss_of is None):
            raise UsageError("give loss_fn, or loss_of and None for loss_fn.")
        size = loader.batch_size if batch_size is None else batch_size
        if size is None:
            raise UsageError("the loader has a batch sampler of its own: give batch_size=... .")
        total = length(loader)
        self._schedule = Schedule(per_decade)
        _check(seed=seed, batch_size=size, n_samples=n_samples, total=total)
        self._model, self._loader, self._seed = model, loader, seed
        self._loss_fn, self._loss_of = loss_fn, loss_of
        split = (lambda batch: (batch, None)) if loss_of is not None else split or inputs_and_targets
        mask = check_mask(None if wrong is None else to_numpy(wrong), total)
        chosen = np.sort(stream(seed, "data").permutation(total)[: n_samples or max(SUBSET, BATCHES * size)])
        with undisturbed(model, loader, test_loader):
            self._measured = Measured(
                model,
                "cross-entropy" if loss_fn is None else _known_loss(loss_fn),
                collected(loader, chosen, split),
                None if test_loader is None else collected(test_loader, None, split),
                {"batch_norm": "frozen", "loss_of": loss_of, **options},
                batch_size=size,
                alignment_batches=alignment_batches,
                wrong=None if mask is None else mask[chosen],
                sizes=(total,) if mask is None else (total - int(mask.sum()), int(mask.sum())),
            )
        self._claim: Claim | None = None if out is None else claim_new(Path(out))
        self._record = Record(chosen)
        self._written = float("-inf")
        self._is_quiet = False
        try:
            self._measure()
        except BaseException:
            if self._claim is not None:
                self._claim.release()
            raise

    def step(self) -> None:
        """Count a training step, and measure where one is due."""
        self._record.steps += 1
        if self._schedule.is_due(self._record.steps):
            self._guarded(self._measure)

    def measure_now(self) -> None:
        """Measure at the present step, such as the last one; nothing if it is measured already."""
        if self._record.measured_step != self._record.steps:
            self._guarded(self._measure)
        self._guarded(self._write)

    @property
    def phases(self) -> Phases:
        """The phases so far: see `find_phases`. They need a test loader, or the mask of wrong labels beside it."""
        return find_phases(self.trajectory)

    @property
    def phase(self) -> PhaseNow:
        """The phase that the network is in at the last measurement; printed, one sentence."""
        return phase_now(self.trajectory)

    @property
    def watched(self) -> np.ndarray:
        """Numbers of the samples that are measured, in the order of the data set, shape (n,)."""
        return self._record.watched.copy()

    def wrong_labels(self, **options: Any) -> LabelsFromLosses:
        """Which labels of the watched samples are suspect, from their losses so far, without the mask.

        Parameters
        ----------
        **options
            Of `find_wrong_labels_from_losses`.

        Returns
        -------
        LabelsFromLosses
            In the order of ``watched``.

        Raises
        ------
        UsageError
            If the loss is not the cross-entropy: what is found is about its scale.
        InputError
            If too few measurements lie after the first epoch, or losses are not finite.
        """
        if self._measured.loss != "cross-entropy" or self._loss_of is not None:
            raise UsageError(f"loss_fn = {self._loss_fn!r}: wrong labels are found from the cross-entropy of samples.")
        epochs, losses = np.array(self._record.rows["step"]) / len(self._loader), np.array(self._record.sample_losses)
        return find_wrong_labels_from_losses(epochs, losses, self._measured.labels, **options)

    @property
    def trajectory(self) -> xr.Dataset:
        """What has been measured so far, as ``trajectory.nc`` holds it."""
        loss = 'loss = "cross-entropy"\n' if self._measured.loss == "cross-entropy" else ""
        attributes = {**self._measured.sizes(), "model": type(self._model).__name__}
        return self._record.dataset(len(self._loader), loss).assign_attrs(attributes)

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do it, unless something has failed before; a failure is a warning, and the last thing heard."""
        if self._is_quiet:
            return
        try:
            action()
        except Exception as error:  # whatever it is, it must not end somebody's training
            self._is_quiet = True
            warnings.warn(
                f"PhaseMonitor measures no more from step {self._record.steps} on, and training goes on: "
                f"{type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=3,
            )

    def _measure(self) -> None:
        step = self._record.steps
        with undisturbed(self._model):  # the data set is not touched any more
            found: dict[str, Any] = self._measured.scalars(step, stream(self._seed, "alignment", step))
            found |= {"test_loss": float("nan"), "test_error": float("nan")}
            tested = self._measured.test_scores()
            if tested is not None:
                found |= {"test_loss": float(tested.loss.mean()), "test_error": float(1 - tested.correct.mean())}
                found |= lost_samples(self._record.arrays(), tested.correct)
            self._record.add(found, self._measured.sample_losses())
        if self._log is not None:
            scalars = {name: value for name, value in found.items() if np.ndim(value) == 0}
            with undisturbed(self._model):
                self._log(step, scalars, str(self.phase))
        if time.monotonic() - self._written > WRITE_SECONDS:
            self._write()

    def state_dict(self) -> dict[str, Any]:
        """What has been measured so far, to be kept beside the model's own state: see `load_state_dict`."""
        return self._record.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what an earlier monitor had measured: of the same data, with the same settings.

        Raises
        ------
        InputError
            If it is no state of a monitor, or it watched other samples.
        """
        self._record.restore(state)

    def _write(self) -> None:
        if self._claim is not None:
            write_netcdf(self._claim.path / "trajectory.nc", self.trajectory)
            self._written = time.monotonic()


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


def _known_loss(loss_fn: Callable) -> Any:
    """The name of PyTorch's plain cross-entropy, which is faster by name; any other loss as it is."""
    if loss_fn is F.cross_entropy:
        return "cross-entropy"
    plain, settings = nn.CrossEntropyLoss(), ("weight", "ignore_index", "reduction", "label_smoothing")
    if type(loss_fn) is nn.CrossEntropyLoss and all(getattr(loss_fn, s) == getattr(plain, s) for s in settings):
        return "cross-entropy"
    return loss_fn
