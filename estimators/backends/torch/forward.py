"""The forward pass: a module, one labelled data set, and the losses of its samples."""

import copy
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from sgdphases.estimators.backends.samples import checked_array, is_correct, prepare_samples
from sgdphases.estimators.backends.torch.loss import check_loss, check_mean, sample_losses
from sgdphases.estimators.backends.torch.modes import Modes
from sgdphases.estimators.errors import InputError, UsageError

HALF = (torch.float16, torch.bfloat16)
Index = torch.Tensor | slice | list[int]


class Forward:
    """Losses and outputs of any samples of a labelled data set.

    Parameters
    ----------
    module : Module
    modes : Modes
        In which it is measured; entered by the caller.
    loss : {"cross-entropy", "squared"} or callable
    output : None, str, int or callable
        What of the module's answer the loss takes, as `TorchBackend` has it.
    autocast : torch.dtype or None
    parameter : Parameter
        Whose dtype and device the data get.
    per_sample : bool
        Whether the loss must be a mean over samples.

    Attributes
    ----------
    n_samples : int
    labels : ndarray of int, shape (N,)
        -1 throughout where there are no classes.
    inputs, targets : Tensor, shape (N, ...)
        Like the former, once there are data: see `on`.
    """

    n_samples: int
    labels: np.ndarray
    inputs: torch.Tensor
    targets: torch.Tensor

    def __init__(
        self,
        module: nn.Module,
        modes: Modes,
        loss: str | Callable,
        output: Any,
        autocast: torch.dtype | None,
        parameter: nn.Parameter,
        per_sample: bool,
    ):
        self.module, self.modes, self.loss, self.autocast = module, modes, loss, autocast
        self.output, self.per_sample = output, per_sample
        self.device, self.dtype = parameter.device, parameter.dtype
        check_loss(loss, per_sample=per_sample)

    def on(self, x: Any, y: Any) -> Self:
        """The same module on this labelled data set.

        Raises
        ------
        UsageError, InputError
            If data, loss and module do not fit together.
        """
        made = copy.copy(self)
        x, y = checked_array(x, "x"), checked_array(y, "y")
        if x.ndim == 0 or len(x) == 0:
            raise InputError(f"x has shape {x.shape}: give at least one sample.")
        floats = np.dtype(np.float64 if self.dtype == torch.float64 else np.float32)
        integers = np.issubdtype(x.dtype, np.integer) and self._takes(torch.from_numpy(x[:2].astype(np.int64)))
        kept = np.dtype(np.int64) if integers else floats
        n_outputs = self._try(torch.from_numpy(x[:2].astype(kept)))
        if callable(self.loss):
            samples = prepare_samples(x, np.zeros(len(x)), n_outputs=1, loss="squared", dtype=kept)
            if y.ndim == 0 or len(y) != len(x):
                raise InputError(f"x has {len(x)} samples and y has shape {y.shape}: give one target a sample.")
            made.labels = y if y.ndim == 1 and np.issubdtype(y.dtype, np.integer) else np.full(len(y), -1)
            targets = torch.from_numpy(np.ascontiguousarray(y))
            targets = targets.to(self.dtype) if targets.is_floating_point() else targets
        else:
            if n_outputs is None:
                raise InputError("the model must answer with shape (samples, outputs) for this loss.")
            samples = prepare_samples(x, y, n_outputs=n_outputs, loss=self.loss, dtype=kept)
            made.labels, targets = samples.labels, torch.from_numpy(samples.targets.astype(np.float64)).to(self.dtype)
        made.n_samples = samples.n_samples
        inputs = torch.from_numpy(samples.inputs)
        made.inputs = (inputs if integers else inputs.to(self.dtype)).to(self.device)
        made.targets = targets.to(self.device)
        return made

    def index(self, indices: np.ndarray) -> torch.Tensor | slice:
        """Sample numbers on the device; a slice for a run of neighbours, which saves gathering them."""
        first, n = int(indices[0]), len(indices)
        if n > 1 and int(indices[-1]) == first + n - 1 and np.array_equal(indices, np.arange(first, first + n)):
            return slice(first, first + n)
        return torch.from_numpy(np.asarray(indices, dtype=np.int64)).to(self.device)

    def outputs(self, index: Index, wide: nn.Module | None = None) -> torch.Tensor:
        """What the module answers to some samples; ``wide`` is a float32 copy of it to ask instead."""
        inputs = rows(self.inputs, index)
        if isinstance(index, slice):
            inputs = inputs.clone()  # a module may work on its input in place
        if wide is not None:
            return self._chosen(wide(inputs.float() if inputs.is_floating_point() else inputs))
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            found = self._chosen(self.module(inputs))
        self.modes.put_back_buffers()
        return found.float() if found.dtype in HALF else found

    def __call__(self, index: Index, wide: nn.Module | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses, shape (n,), and outputs of some samples; ``wide`` as for `outputs`."""
        outputs = self.outputs(index, wide)
        return sample_losses(self.loss, outputs, rows(self.targets, index)), outputs

    def as_minibatch(self, index: Index, *, whole: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers, shape (n,), whose mean is the loss of these samples as training has it, and the outputs.

        They are the losses of the samples where that is a mean over samples. Any other loss is shared out evenly, if
        only the ``whole`` minibatch is asked for.

        Raises
        ------
        UsageError
            If parts of such a minibatch are asked for.
        """
        outputs = self.outputs(index)
        targets = rows(self.targets, index)
        if not callable(self.loss) or not whole:
            losses = sample_losses(self.loss, outputs, targets)
            self.check_mean(index, losses, outputs)
            return losses, outputs
        together = self.loss(outputs, targets)
        if together.ndim:
            raise UsageError(
                f"the loss of a minibatch has shape {tuple(together.shape)}: give one that is a single number."
            )
        return together.expand(len(outputs)), outputs

    def shared_out(self, index: Index) -> tuple[torch.Tensor, torch.Tensor]:
        """The losses of the samples of a minibatch where they are defined, else the minibatch's, shared out evenly."""
        try:
            return self.as_minibatch(index, whole=False)
        except Exception:  # somebody's loss of a single sample may raise anything
            return self.as_minibatch(index)

    def check_mean(self, index: Index, losses: torch.Tensor, outputs: torch.Tensor) -> None:
        """Raise a UsageError unless the loss of these samples together is the mean of theirs."""
        if callable(self.loss):
            check_mean(self.loss, losses, outputs, rows(self.targets, index))

    def correct(self, indices: np.ndarray, outputs: torch.Tensor) -> np.ndarray:
        """1 or 0 for each sample, shape (n,); NaN where there are no classes."""
        if outputs.ndim != 2:
            return np.full(len(indices), np.nan)
        return is_correct(outputs.detach().float().cpu().numpy(), self.labels[indices])

    def _chosen(self, answer: Any) -> torch.Tensor:
        """The tensor of an answer that the loss takes."""
        try:
            if callable(self.output):
                answer = self.output(answer)
            elif isinstance(self.output, str) and not isinstance(answer, dict):
                answer = getattr(answer, self.output)
            elif self.output is not None:
                answer = answer[self.output]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise UsageError(
                f"output = {self.output!r} is not in the model's answer, a {type(answer).__name__} ({error})."
            ) from None
        if isinstance(answer, torch.Tensor):
            return answer
        keys = f" with the keys {', '.join(map(str, answer))}" if isinstance(answer, dict) else ""
        raise UsageError(
            f"the model answers with a {type(answer).__name__}{keys}, not with a tensor: say which part the loss takes "
            "by output=, a key, an index, an attribute's name or a function."
        )

    def _takes(self, first: torch.Tensor) -> bool:
        try:
            self._try(first)
        except InputError:
            return False
        return True

    def _try(self, first: torch.Tensor) -> int | None:
        """Output width; None where an answer has more than one dimension."""
        first = first.to(self.dtype) if first.is_floating_point() else first.clone()
        try:
            with torch.no_grad(), self.modes.frozen():
                outputs = self._chosen(self.module(first.to(self.device)))
        except InputError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise InputError(f"the model does not take samples of shape {tuple(first.shape[1:])}: {error}") from error
        return outputs.shape[1] if outputs.ndim == 2 else None


def rows(values: torch.Tensor, index: Index) -> torch.Tensor:
    """Some rows; gathered by `index_select`, which takes half the time of indexing."""
    return values.index_select(0, index) if isinstance(index, torch.Tensor) else values[index]
