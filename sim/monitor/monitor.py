"""Order parameters along any PyTorch training loop, which is not changed by it in a single bit."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from sgdphases.estimators.backends.torch.models import refuse_unsupported, unwrapped
from sgdphases.estimators.cleansing.consensus import FIRST_EPOCH, LEAST_PROBES
from sgdphases.estimators.cleansing.from_losses import LabelsFromLosses, find_wrong_labels_from_losses
from sgdphases.estimators.cleansing.stopping import MEMORISED, best_probe, latest_of_best
from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.phases.find import find_phases
from sgdphases.estimators.phases.from_losses import is_memorising
from sgdphases.estimators.phases.now import PhaseNow, phase_now
from sgdphases.estimators.phases.records import Phases
from sgdphases.sim.monitor.loggers import Log, Progress, is_heard, logger_of
from sgdphases.sim.monitor.measured import measured
from sgdphases.sim.monitor.processes import processes_of
from sgdphases.sim.monitor.record import Record
from sgdphases.sim.monitor.schedule import AVERAGE, FULL, LIGHT, Schedule
from sgdphases.sim.monitor.snapshots import MOST, MovingAverage, Snapshots
from sgdphases.sim.monitor.undisturbed import undisturbed, wait_for_devices
from sgdphases.sim.run.streams import stream
from sgdphases.sim.run.trajectory import lost_samples
from sgdphases.sim.storage.claims import Claim, claim_new
from sgdphases.sim.storage.netcdf import write_netcdf

WRITE_SECONDS = 5.0  # how old the file may grow while training goes on: writing it takes a tenth of a second


@dataclass(frozen=True)
class Restored:
    """The weights that were given back.

    Attributes
    ----------
    step : int
        Of the measurement; averaged weights are of about an epoch before it, too.
    epoch : float
    agreement : float
        Share of the watched samples to which they give the answer of phase II.
    window : tuple of float
        First and last epoch of phase II: see `consensus`.
    is_last : bool
        Whether they are those of the last measurement.
    """

    step: int
    epoch: float
    agreement: float
    window: tuple[float, float]
    is_last: bool


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
    measures no more. Layers that are replaced, frozen or unfrozen meanwhile are measured as they then are.

    Parameters
    ----------
    model : torch.nn.Module
        As it is trained: wrapped in DistributedDataParallel or compiled, it is measured without.
    loss_fn : callable or None
        ``loss_fn(outputs, targets)``, the mean of the samples' losses, as training uses it; None with ``loss_of``.
    loader : torch.utils.data.DataLoader, or list of batches
        Of the training set: pairs of inputs and targets, where inputs may be a tuple or a dictionary for a model that
        takes several tensors or keywords; or dictionaries, dataclasses and named tuples that hold the targets as
        "labels" or "label". See ``split`` for others. Where the dataset cannot be indexed, the first samples of a fresh
        iteration are watched: it ought to come in random order.
    wrong : array of bool, shape (len(loader.dataset),), or None
        Samples with wrong labels.
    test_loader : DataLoader, or list of batches, or None
        For the test loss and error.
    out : str, Path or None
        New folder in which ``trajectory.nc`` is kept, at most seconds behind, and up to date after `measure_now`; None
        keeps it in memory only.
    n_samples : int or None
        Of the subset; the whole training set where it is smaller. None takes 2,000, or eight minibatches if that is
        more. R is NaN where it holds fewer than six minibatches.
    n_training : int or None
        Samples in an epoch, where the loader's dataset has no length.
    batch_size : int or None
        B, the samples in a step of the optimizer, at most the subset's size; None takes the loader's, times
        ``accumulation`` and the number of processes.
    accumulation : int
        Batches whose gradients are added up for one step of the optimizer; `step` is called once for all of them.
    steps_per_epoch : int or None
        Steps of the optimizer in an epoch; None takes what loader and ``accumulation`` give.
    per_decade : int
        Measurements for every tenfold growth of the number of steps.
    budget : float or None
        Time that measuring may take, relative to the time that training takes without, such as 0.02. Half of it goes
        to full measurements, the rest to light ones, which take losses and answers alone: gradients' order parameters
        are NaN there. What goes beyond it is put off to later steps. None sets no limit.
    alignment_batches : int
        Minibatches drawn for each sampled alignment; 0 for none, otherwise at least 3.
    seed : int
        Of the choice of the subset and of those minibatches.
    split : callable or None
        Gives inputs and targets of a batch, where it is neither a pair nor has labels by name.
    loss_of : callable or None
        ``loss_of(model, batch)`` gives the losses of a batch's samples, shape (n,), for whatever else a model needs;
        training minimises their mean. There are no errors then, and so no phases.
    snapshots : {"auto", "memory"}, str or Path of a folder, or False
        Where up to twelve copies of the weights are kept for `restore_best`. "auto" keeps them in memory where they
        take at most 1 GiB together, and none otherwise. Those in a folder outlast an interruption.
    average : bool
        Whether those copies are means of the weights over about the last epoch before, which usually do better, rather
        than the weights of single steps.
    log : callable, logger, None or False
        Takes every measurement as it comes: a function of step, scalars by name and the phase as text; TensorBoard's
        SummaryWriter, a W&B run, mlflow, or a Lightning logger (`logger_of`). None logs a line of progress
        ("sgdphases", level INFO), and shows one on a terminal every few seconds; False does neither.
    distributed : bool or None
        Whether all processes of `torch.distributed` train this model together: then each makes a monitor and calls
        `step`, and measures its share; all get the same trajectory, and the first one writes and logs. None: they do
        where the model is wrapped in DistributedDataParallel, or the loader has a DistributedSampler.
    **options : passed on to `TorchBackend`
        Such as ``parameters="layers.1.weight"``, ``autocast="bfloat16"`` to measure in mixed precision, or
        ``output="logits"`` for a model that answers with more than a tensor.

    Raises
    ------
    UsageError
        If the loader can be iterated only once or has no batch size or length, the loss is not a mean over samples, or
        the folder holds anything.
    InputError
        If mask, data and model do not fit together.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable | None,
        loader: Any,
        *,
        wrong: Any = None,
        test_loader: Any = None,
        out: str | Path | None = None,
        n_samples: int | None = None,
        n_training: int | None = None,
        batch_size: int | None = None,
        accumulation: int = 1,
        steps_per_epoch: int | None = None,
        per_decade: int = 15,
        budget: float | None = None,
        alignment_batches: int = 16,
        seed: int = 0,
        split: Callable | None = None,
        loss_of: Callable | None = None,
        snapshots: Any = "auto",
        average: bool = True,
        log: Any = None,
        distributed: bool | None = None,
        **options: Any,
    ):
        self._schedule = Schedule(per_decade, budget)
        if (loss_fn is None) == (loss_of is None):
            raise UsageError("give loss_fn, or loss_of and None for loss_fn.")
        self._loss_fn, self._loss_of, self._seed = loss_fn, loss_of, seed
        self._model = unwrapped(model)
        refuse_unsupported(self._model, per_sample=False)  # before anything of it is touched
        self._processes = processes_of(model, loader, distributed)
        is_first = self._processes.rank == 0
        self._log: Log | None = None
        if is_first and log is not False:
            self._log = Progress() if log is None else logger_of(log)
        self._claim: Claim | None = None
        self._written = float("-inf")
        self._is_quiet = False
        try:
            with self._schedule.timed(), self._processes.together():
                with undisturbed(self._model, loader, test_loader):
                    self._measured, self._steps_per_epoch = measured(
                        self._model,
                        loss_fn,
                        loader,
                        test_loader,
                        {"batch_norm": "frozen", "loss_of": loss_of, **options},
                        self._processes,
                        wrong=wrong,
                        n_samples=n_samples,
                        n_training=n_training,
                        batch_size=batch_size,
                        accumulation=accumulation,
                        steps_per_epoch=steps_per_epoch,
                        alignment_batches=alignment_batches,
                        seed=seed,
                        split=split,
                    )
                self._claim = None if out is None or not is_first else claim_new(Path(out))
                has_classes = loss_of is None and len(self._measured.labels) > 0 and self._measured.labels.min() >= 0
                self._snapshots = Snapshots(self._model, snapshots if has_classes else False, writes=is_first)
                averages = average and self._snapshots.is_on
                self._average = MovingAverage(self._steps_per_epoch) if averages else None
            self._record = Record(self._measured.numbers)
            self._measure()
            self._schedule.begin()
        except BaseException:
            if self._claim is not None:
                self._claim.release()
            raise

    def step(self) -> None:
        """Count a step of the optimizer, and measure where that is due and within the budget.

        Call it once for every step of the optimizer, in every process.
        """
        self._record.steps += 1
        if self._average is not None and self._record.steps % self._average.every == 0:
            self._guarded(self._take_up)
        if self._schedule.is_due(self._record.steps):
            self._guarded(self._measure_if_affordable)

    def measure_now(self) -> None:
        """Measure at the present step, such as the last one, whatever the budget; nothing if it is measured already.

        Where several processes train together, all must call it.
        """
        if self._record.measured_step != self._record.steps:
            self._guarded(self._measure)
        self._guarded(self._write_now)

    @property
    def overhead(self) -> float:
        """Time spent on measuring and its preparations, relative to the time between, up to the last one due."""
        return self._schedule.overhead

    @property
    def phases(self) -> Phases:
        """The phases so far: see `find_phases`; without test samples, see `find_phases_from_losses`."""
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
        self._refuse_other_losses("wrong labels are found")
        losses = np.array(self._record.sample_losses)
        return find_wrong_labels_from_losses(self._epochs, losses, self._measured.labels, **options)

    @property
    def past_phase_two(self) -> bool:
        """Whether the samples that the common rule does not explain are being memorised: a good moment to stop.

        From the losses of the watched samples alone, without a test set or the mask; see `is_memorising`. False where
        no label stands out, whatever the test error does.

        Raises
        ------
        UsageError
            If the loss is not the cross-entropy.
        """
        self._refuse_other_losses("the end of phase II is seen")
        losses, right = np.array(self._record.sample_losses), np.array(self._record.sample_right)
        return is_memorising(self._epochs, losses, self._measured.labels, right=right)

    def restore_best(self, model: nn.Module | None = None) -> Restored:
        """Give back the weights of the measurement whose answers agree best with those of phase II: see `best_probe`.

        With ``average`` (the default) they are the mean over about the last epoch before that measurement. No clean or
        test samples are used. Call it when training is over, or `past_phase_two`. Where nothing was memorised
        (less than a third of the labels that phase II is against are given at the end, and `past_phase_two` is False),
        those are the weights of the last measurement: call `measure_now` first.

        Parameters
        ----------
        model : Module or None
            Takes the weights and buffers; None for the one that is trained.

        Returns
        -------
        Restored

        Raises
        ------
        UsageError
            If no snapshots are kept, or the loss is not the cross-entropy.
        InputError
            If too few measurements lie after the first epoch, or the model does not fit.
        """
        self._refuse_other_losses("the best weights are found")
        self._snapshots.refuse_none()
        losses, answers = np.array(self._record.sample_losses), np.array(self._record.answers)
        found = best_probe(self._epochs, losses, answers, self._measured.labels)
        goes_back = not found.is_last and (found.memorised >= MEMORISED or self.past_phase_two)
        steps = [int(step) for step in self._record.rows["step"]]
        kept = {steps.index(step): step for step in self._snapshots.steps}
        last = max(kept)
        place = latest_of_best(found.agreement, np.array(sorted(kept))) if goes_back else last
        self._snapshots.restore(kept[place], self._model if model is None else unwrapped(model))
        epoch = float(self._epochs[place])
        return Restored(kept[place], epoch, float(found.agreement[place]), found.window, place == last)

    def report(self, folder: str | Path) -> Path:
        """Draw the figures and the page of what has been measured so far: see `sgdphases.report`."""
        import sgdphases  # pages belong to a floor above this one: by the public face only

        return sgdphases.report(self.trajectory, folder)

    @property
    def trajectory(self) -> xr.Dataset:
        """What has been measured so far, as ``trajectory.nc`` holds it."""
        loss = 'loss = "cross-entropy"\n' if self._measured.loss == "cross-entropy" else ""
        attributes = {**self._measured.sizes(), "model": type(self._model).__name__, **self._schedule.attributes()}
        labels = self._measured.labels if loss else np.empty(0, int)
        found = self._record.dataset(self._steps_per_epoch, loss, labels, self._measured.wrong)
        return found.assign_attrs(attributes)

    @property
    def _epochs(self) -> np.ndarray:
        return np.array(self._record.rows["step"]) / self._steps_per_epoch

    def _refuse_other_losses(self, what: str) -> None:
        if self._measured.loss != "cross-entropy" or self._loss_of is not None:
            raise UsageError(f"loss_fn = {self._loss_fn!r}: {what} from the cross-entropy of samples.")

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do it, unless something has failed before; a failure is a warning, and the last thing heard."""
        if self._is_quiet:
            return
        try:
            action()
        except Exception as error:  # whatever it is, it must not end the user's training
            self._is_quiet = True
            warnings.warn(
                f"PhaseMonitor measures no more from step {self._record.steps} on, and training goes on: "
                f"{type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=3,
            )

    def _take_up(self) -> None:
        """Average the weights in, within the budget; several processes alike, as all are to give back the same."""
        if self._average is not None and (self._processes.size > 1 or self._schedule.can_average()):
            with self._schedule.timed(AVERAGE):
                self._average.take(self._record.steps, self._model)

    def _measure_if_affordable(self) -> None:
        kind = self._schedule.affordable()
        if self._schedule.is_limited:  # what the first process has chosen holds for all
            chosen = [each for each in (FULL, LIGHT) if self._processes.decided(kind == each)]
            kind = chosen[0] if chosen else None
        if kind is None:
            self._schedule.put_off(self._record.steps)
        else:
            self._measure(kind)

    def _measure(self, kind: str = FULL) -> None:
        wait_for_devices(self._model)  # so that what training has begun is not taken for measuring
        with self._schedule.timed(kind), self._processes.together():
            found = self._measured_now(kind)
            if self._log is not None and is_heard(self._log):
                scalars = {name: value for name, value in found.items() if np.ndim(value) == 0}
                with undisturbed(self._model):
                    self._log(self._record.steps, scalars, str(self.phase))
            if time.monotonic() - self._written > WRITE_SECONDS:
                self._write()

    def _measured_now(self, kind: str) -> dict[str, Any]:
        """Measure and add it to the record; the data set is not touched any more."""
        step = self._record.steps
        self._processes.refuse_different(step)
        with undisturbed(self._model):
            rng = stream(self._seed, "alignment", step) if kind == FULL else None
            latest = self._measured(step, rng)
        found: dict[str, Any] = {**latest.scalars, "test_loss": float("nan"), "test_error": float("nan")}
        tested = latest.tested
        if tested is not None:
            found |= {"test_loss": float(tested.loss.mean()), "test_error": float(1 - tested.correct.mean())}
            found |= lost_samples(self._record.arrays(), tested.correct)
        is_kept = self._snapshots.is_on
        self._record.add(found, latest.losses, latest.right, latest.answers if is_kept else None)
        if is_kept:
            if self._average is not None:
                self._average.take(step, self._model)
            self._snapshots.keep(step, self._model, {} if self._average is None else self._average.state())
            self._snapshots.thin(self._worth())
        return found

    def _worth(self) -> dict[int, float]:
        """How well each measurement agrees with phase II, by its step; empty before that can be said."""
        if len(self._snapshots.steps) <= MOST or (self._epochs >= FIRST_EPOCH).sum() < LEAST_PROBES:
            return {}
        found = best_probe(self._epochs, np.array(self._record.sample_losses), np.array(self._record.answers))
        steps = np.array(self._record.rows["step"], dtype=int)
        return dict(zip(steps.tolist(), found.agreement.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """What has been measured so far, to be kept beside the model's own state: see `load_state_dict`."""
        return {**self._record.state(), "seconds": self._schedule.state(), "snapshots": self._snapshots.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what an earlier monitor had measured: of the same data, with the same settings.

        Raises
        ------
        InputError
            If it is no state of a monitor, or it watched other samples.
        """
        self._record.restore(state)
        self._snapshots.go_on(state.get("snapshots", []))
        if self._average is not None:
            self._average.reset()
        if "seconds" in state:  # not in those of earlier versions
            self._schedule.restore(state["seconds"])

    def _write_now(self) -> None:
        with self._processes.together():
            self._write()

    def _write(self) -> None:
        if self._claim is not None:
            write_netcdf(self._claim.path / "trajectory.nc", self.trajectory)
            self._written = time.monotonic()
