"""The same monitor as a callback of Hugging Face's Trainer: ``pip install 'sgdphases[transformers]'``."""

from collections.abc import Callable, Sized
from contextlib import suppress
from typing import Any

from transformers import TrainerCallback

from sgdphases.sim.monitor.monitor import PhaseMonitor


class PhaseMonitorCallback(TrainerCallback):
    """Measures order parameters while a ``transformers.Trainer`` trains.

    Parameters
    ----------
    loss_fn : callable
        ``loss_fn(logits, labels)``, the mean of the samples' losses.
    **options : passed on to `PhaseMonitor`
        ``output="logits"`` if not given: that is what these models answer with. Batch size, gradient accumulation and
        the number of processes are taken from the trainer; a step is one of the optimizer.

    Attributes
    ----------
    monitor : PhaseMonitor or None
        From the start of the training on.
    """

    def __init__(self, loss_fn: Callable | None, **options: Any):
        self._loss_fn = loss_fn
        self._options = options if options.get("loss_of") else {"output": "logits", **options}
        self.monitor: PhaseMonitor | None = None

    def on_train_begin(self, args, state, control, model=None, train_dataloader=None, **kwargs) -> None:
        accumulation, processes = args.gradient_accumulation_steps, args.world_size
        found: dict[str, Any] = {"batch_size": args.train_batch_size * accumulation * processes}
        if isinstance(train_dataloader, Sized):
            with suppress(TypeError):  # a stream has no length
                found["steps_per_epoch"] = -(-len(train_dataloader) // accumulation)
        options = {**found, "distributed": processes > 1, **self._options}
        self.monitor = PhaseMonitor(model, self._loss_fn, train_dataloader, **options)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.monitor is not None:
            self.monitor.step()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if self.monitor is not None:
            self.monitor.measure_now()
