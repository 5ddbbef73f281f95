"""The same monitor as a Lightning callback: ``pip install 'sgdphases[lightning]'``."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from sgdphases.sim.monitor.monitor import PhaseMonitor


class PhaseMonitorCallback(Callback):
    """Measures order parameters while a ``lightning.Trainer`` trains.

    Parameters
    ----------
    loss_fn : callable
        As for `PhaseMonitor`.
    loader : torch.utils.data.DataLoader
        Of the training set.
    **options : passed on to `PhaseMonitor`
        Gradient accumulation and the number of processes are taken from the trainer; a step is one of the optimizer.

    Attributes
    ----------
    monitor : PhaseMonitor or None
        From the start of the training on.
    """

    def __init__(self, loss_fn: Callable, loader: DataLoader, **options: Any):
        self._arguments = loss_fn, loader, options
        self.monitor: PhaseMonitor | None = None
        self._counted = 0

    def on_train_start(self, trainer, module) -> None:
        loss_fn, loader, options = self._arguments
        found = {"accumulation": trainer.accumulate_grad_batches, "distributed": trainer.world_size > 1}
        self._counted = trainer.global_step
        self.monitor = PhaseMonitor(module, loss_fn, loader, **{**found, **options})

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        if self.monitor is not None and trainer.global_step > self._counted:
            self._counted = trainer.global_step
            self.monitor.step()

    def on_train_end(self, trainer, module) -> None:
        if self.monitor is not None:
            self.monitor.measure_now()
