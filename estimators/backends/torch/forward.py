"""The forward pass: a module, one labelled data set, and the losses of its samples."""

import copy
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from sgdphases.estimators.backends.samples import checked_array, chosen_class, is_correct, prepare_samples
from sgdphases.estimators.backends.torch.inputs import (
    Index,
    Inputs,
    call,
    each,
    is_structured,
    laid_out,
    n_samples,
    own_rows,
    rows,
)
from sgdphases.estimators.backends.torch.loss import check_loss, check_mean, check_weights, sample_losses
from sgdphases.estimators.backends.torch.modes import Modes
from sgdphases.estimators.errors import InputError, UsageError

HALF = (torch.float16, torch.bfloat16)


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
    loss_of : callable or None
        Gives losses instead: see `TorchBackend`.

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
    inputs: Inputs
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
        loss_of: Callable | None = None,
    ):
        self.loss_of, self.per_sample = loss_of, per_sample
        self.module, self.modes, self.loss, self.autocast = module, modes, loss, autocast
        self.output = output
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
        if self.loss_of is not None:
            made.inputs = laid_out(x, self.dtype, self.device)
            made.n_samples = n_samples(made.inputs)
            made.labels, made.targets = np.full(made.n_samples, -1), torch.empty(made.n_samples, 0)
            return made
        y = checked_array(y, "y")
        if is_structured(x):
            made.inputs = laid_out(x, self.dtype, self.device)
            n_outputs = self._try(each(made.inputs, lambda values: values[:2]))
        else:
            made.inputs, n_outputs = self._one_tensor(checked_array(x, "x"))
        n = n_samples(made.inputs)
        if y.ndim == 0 or len(y) != n:
            given = len(y) if y.ndim else "none"
            raise InputError(f"x has {n} samples and y has {given}: give one target a sample.")
        if callable(self.loss):
            made.labels = y if y.ndim == 1 and np.issubdtype(y.dtype, np.integer) else np.full(len(y), -1)
            targets = torch.from_numpy(np.ascontiguousarray(y))
            targets = targets.to(self.dtype) if targets.is_floating_point() else targets
            if self.per_sample:
                check_weights(self.loss, targets)
        else:
            if n_outputs is None:
                raise InputError("the model must answer with shape (samples, outputs) for this loss.")
            nothing = np.zeros((n, 1))  # the inputs are laid out already
            samples = prepare_samples(nothing, y, n_outputs=n_outputs, loss=self.loss, dtype=np.float64)
            made.labels, targets = samples.labels, torch.from_numpy(samples.targets).to(self.dtype)
        made.n_samples, made.targets = n, targets.to(self.device)
        return made

    def _one_tensor(self, x: np.ndarray) -> tuple[torch.Tensor, int | None]:
        """The inputs as one tensor, integers if the module takes them; and the width of its answers."""
        if x.ndim == 0 or len(x) == 0:
            raise InputError(f"x has shape {x.shape}: give at least one sample.")
        floats = np.dtype(np.float64 if self.dtype == torch.float64 else np.float32)
        integers = np.issubdtype(x.dtype, np.integer) and self._takes(torch.from_numpy(x[:2].astype(np.int64)))
        kept = np.dtype(np.int64) if integers else floats
        n_outputs = self._try(torch.from_numpy(x[:2].astype(kept)))
        nothing = np.zeros(len(x))
        inputs = torch.from_numpy(prepare_samples(x, nothing, n_outputs=1, loss="squared", dtype=kept).inputs)
        return (inputs if integers else inputs.to(self.dtype)).to(self.device), n_outputs

    def index(self, indices: np.ndarray) -> torch.Tensor | slice:
        """Sample numbers on the device; a slice for a run of neighbours, which saves gathering them."""
        first, n = int(indices[0]), len(indices)
        if n > 1 and int(indices[-1]) == first + n - 1 and np.array_equal(indices, np.arange(first, first + n)):
            return slice(first, first + n)
        return torch.from_numpy(np.asarray(indices, dtype=np.int64)).to(self.device)

    def outputs(self, index: Index, wide: nn.Module | None = None) -> torch.Tensor:
        """What the module answers to some samples; ``wide`` is a copy of it in a wider dtype to ask instead."""
        found = self._asked(index, wide, lambda module, inputs: self._chosen(call(module, inputs)))
        return found.float() if wide is not None and found.is_floating_point() else found

    def __call__(self, index: Index, wide: nn.Module | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses, shape (n,), and outputs of some samples; ``wide`` as for `outputs`."""
        if self.loss_of is not None:
            losses = self._asked(index, wide, self._given_losses)
            return losses, losses
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
        if self.loss_of is not None:
            return self(index)
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
        if callable(self.loss) and self.loss_of is None:
            check_mean(self.loss, losses, outputs, rows(self.targets, index))

    def correct(self, indices: np.ndarray, outputs: torch.Tensor) -> np.ndarray:
        """1 or 0 for each sample, shape (n,); NaN where there are no classes."""
        if outputs.ndim != 2:
            return np.full(len(indices), np.nan)
        return is_correct(outputs.detach().float().cpu().numpy(), self.labels[indices])

    def answers(self, outputs: torch.Tensor) -> np.ndarray:
        """The class given to each sample, shape (n,); -1 where there are no classes."""
        if outputs.ndim != 2:
            return np.full(len(outputs), -1)
        return chosen_class(outputs.detach().float().cpu().numpy())

    def _asked(
        self, index: Index, wide: nn.Module | None, ask: Callable[[nn.Module, Inputs], torch.Tensor]
    ) -> torch.Tensor:
        """What ``ask`` gives for the module and some samples: mixed precision where it is wanted, or all in float32."""
        inputs = own_rows(self.inputs, index)
        if wide is not None:
            with torch.autocast(self.device.type, enabled=False):
                dtype = next(p.dtype for p in wide.parameters() if p.is_floating_point())
                return ask(wide, each(inputs, lambda v: v.to(dtype) if v.is_floating_point() else v))
        # No cache: it would hold weights cast at other times, where this runs within somebody's own autocast.
        enabled = self.autocast is not None
        with torch.autocast(self.device.type, self.autocast, enabled=enabled, cache_enabled=False):
            found = ask(self.module, inputs)
        self.modes.put_back_buffers()
        return found.float() if found.dtype in HALF else found

    def _given_losses(self, module: nn.Module, inputs: Inputs) -> torch.Tensor:
        """What ``loss_of`` gives for some samples."""
        assert self.loss_of is not None
        n = n_samples(inputs)
        losses = self.loss_of(module, inputs)
        if not isinstance(losses, torch.Tensor) or losses.shape != (n,):
            shape = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
            raise UsageError(f"loss_of gives {shape} for {n} samples: it must give one loss a sample, shape ({n},).")
        return losses

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

    def _try(self, first: Inputs) -> int | None:
        """Output width; None where an answer has more than one dimension."""
        first = each(first, lambda v: (v.to(self.dtype) if v.is_floating_point() else v.clone()).to(self.device))
        try:
            with torch.no_grad(), self.modes.frozen():
                outputs = self._chosen(call(self.module, first))
        except InputError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            if isinstance(first, torch.Tensor):
                raise InputError(
                    f"the model does not take samples of shape {tuple(first.shape[1:])}: {error}"
                ) from error
            raise InputError(f"the model does not take such samples: {error}") from error
        return outputs.shape[1] if outputs.ndim == 2 else None
