"""BatchNorm and dropout while a model is measured; everything is restored afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from sgdphases.estimators.errors import UsageError

BATCH_NORM = ("batch", "frozen")
DROPOUT = ("off", "mask")


class Modes:
    """A context that puts a model into the modes in which it is measured.

    On leaving it train and eval modes, buffers and hooks are what they were. `training` is the same for training steps,
    except that running statistics move.

    Parameters
    ----------
    module : Module
    batch_norm : {"batch", "frozen"}
    dropout : {"off", "mask"}

    Raises
    ------
    UsageError
        For another choice, or a mask for a dropout that has none (AlphaDropout).
    """

    def __init__(self, module: nn.Module, batch_norm: str, dropout: str):
        if batch_norm not in BATCH_NORM:
            raise UsageError(f"batch_norm = {batch_norm!r}: choose one of {', '.join(BATCH_NORM)}.")
        if dropout not in DROPOUT:
            raise UsageError(f"dropout = {dropout!r}: choose one of {', '.join(DROPOUT)}.")
        self._module, self.batch_norm, self.dropout = module, batch_norm, dropout
        self._masks: dict[tuple[nn.Module, tuple[int, ...]], torch.Tensor] = {}
        self._open: list = []
        drops = [m for m in module.modules() if isinstance(m, _DropoutNd)]
        if dropout == "mask" and any(isinstance(m, (nn.AlphaDropout, nn.FeatureAlphaDropout)) for m in drops):
            raise UsageError("dropout = 'mask': AlphaDropout has no fixed mask here; choose dropout='off'.")

    def __enter__(self) -> None:
        context = self._as_chosen(restore_buffers=True, freeze=self.batch_norm == "frozen")
        context.__enter__()
        self._open.append(context)

    def __exit__(self, *error) -> None:
        self._open.pop().__exit__(*error)

    def training(self):
        """The same, but running statistics move as in training."""
        return self._as_chosen(restore_buffers=False, freeze=self.batch_norm == "frozen")

    def frozen(self):
        """With running statistics whatever was chosen: for finding output shapes."""
        return self._as_chosen(restore_buffers=True, freeze=True)

    @contextmanager
    def _as_chosen(self, *, restore_buffers: bool, freeze: bool) -> Iterator[None]:
        modules = list(self._module.modules())
        switched = [
            m for m in modules if m.training and (isinstance(m, _DropoutNd) or (freeze and _keeps_statistics(m)))
        ]
        moving = any(m.training and m not in switched and getattr(m, "running_mean", None) is not None for m in modules)
        buffers = [(b, b.clone()) for b in self._module.buffers()] if restore_buffers and moving else []
        if restore_buffers:  # a forward pass of these renormalises weights in place
            renormalised = [m.weight for m in modules if getattr(m, "max_norm", None) is not None]
            buffers += [(weight, weight.detach().clone()) for weight in renormalised]
        for module in switched:
            module.training = False
        hooks = []
        if self.dropout == "mask":
            drops = [(k, m) for k, m in enumerate(modules) if isinstance(m, _DropoutNd)]
            hooks = [m.register_forward_hook(self._masked(k)) for k, m in drops]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for module in switched:
                module.training = True
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)

    def _masked(self, number: int):
        def hook(module, inputs, output):
            features = isinstance(module, (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d))
            shape = output.shape[1:2] + (1,) * (output.ndim - 2) if features else output.shape[1:]
            key = module, tuple(shape)
            if key not in self._masks:
                generator = torch.Generator().manual_seed(number)
                kept = torch.rand(shape, generator=generator) >= module.p
                self._masks[key] = kept / max(1 - module.p, 1e-12)
            return output * self._masks[key].to(output)

        return hook


def coupling_layers(module: nn.Module) -> list[str]:
    """BatchNorm layers that would use the minibatch's statistics, with their types."""
    return [
        f"{name or 'model'} ({type(m).__name__})"
        for name, m in module.named_modules()
        if isinstance(m, _BatchNorm) and (m.training or m.running_mean is None)
    ]


def _keeps_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None
