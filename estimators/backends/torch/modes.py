"""BatchNorm, dropout and spectral norms while a model is measured; everything is restored afterwards."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.overrides import TorchFunctionMode

from sgdphases.estimators.errors import UsageError

BATCH_NORM = ("batch", "frozen")
DROPOUT = ("off", "mask")


class Modes:
    """A context that puts a model into the modes in which it is measured.

    On leaving it train and eval modes, buffers, hooks and tensors kept as plain attributes are what they were.
    Spectral norms use their present singular vectors, without the iteration that each training step begins with.
    `training` is the same for training steps, except that running statistics move.

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
        self._kept: list[list[list]] = []  # buffers, their values and versions, in each context that is open
        drops = [m for m in module.modules() if isinstance(m, _DropoutNd)]
        if dropout == "mask" and any(isinstance(m, (nn.AlphaDropout, nn.FeatureAlphaDropout)) for m in drops):
            raise UsageError("dropout = 'mask': AlphaDropout has no fixed mask here; choose dropout='off'.")

    def __enter__(self) -> None:
        context = self._as_chosen(restore_buffers=True, freeze=self.batch_norm == "frozen")
        context.__enter__()
        self._open.append(context)

    def __exit__(self, *error) -> None:
        self._open.pop().__exit__(*error)

    def put_back_buffers(self) -> None:
        """After a forward pass: what it changed of the buffers, so that the next one finds them as this one did."""
        for entry in self._kept[-1] if self._kept else ():
            buffer, value, version = entry
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(value)
                entry[2] = buffer._version

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
        buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        attributes = []
        rates = [(m, m.dropout) for m in modules if isinstance(m, nn.RNNBase) and m.dropout and self.dropout == "off"]
        if restore_buffers:
            own = list(self._module.buffers()) if moving else _buffers_of_own_code(modules)
            attributes = _plain_tensors(modules)
            tables = [m for m in modules if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) and m.max_norm is not None]
            kept = [*own, *(table.weight for table in tables)]  # a forward pass renormalises these in place
            buffers = [(buffer, buffer.detach().clone()) for buffer in kept]
            self._kept.append([[buffer, value, buffer._version] for buffer, value in buffers])
            switched += [m for m in modules if m.training and _has_spectral_norm(m)]
        for module in switched:
            module.training = False
        hooks = []
        if self.dropout == "mask":
            drops = [(k, m) for k, m in enumerate(modules) if isinstance(m, _DropoutNd)]
            hooks = [m.register_forward_hook(self._masked(k)) for k, m in drops]
        for module, _ in rates:
            module.dropout = 0.0
        try:
            with ExitStack() as stack:
                if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
                    # Compiled code, of the model or within it, passes hooks by.
                    stack.enter_context(torch.compiler.set_stance("force_eager"))
                if self.dropout == "off" and any(map(_may_call_dropout, modules)):
                    stack.enter_context(_WithoutDropout())
                yield
        finally:
            if restore_buffers:
                self._kept.pop()
            for hook in hooks:
                hook.remove()
            for module in switched:
                module.training = True
            for module, rate in rates:
                module.dropout = rate
            for module, name, value in attributes:
                setattr(module, name, value)
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


def _has_spectral_norm(module: nn.Module) -> bool:
    hooks = module._forward_pre_hooks.values()
    return isinstance(module, _SpectralNorm) or any(isinstance(hook, SpectralNorm) for hook in hooks)


def _buffers_of_own_code(modules: list[nn.Module]) -> list[torch.Tensor]:
    """Buffers of modules that are not PyTorch's: their forward pass may change them."""
    return [buffer for m in modules if not type(m).__module__.startswith("torch.nn") for buffer in m.buffers(False)]


def _plain_tensors(modules: list[nn.Module]) -> list[tuple[nn.Module, str, torch.Tensor]]:
    """Tensors that are plain attributes: weight norms of the older kind put the weight there at each forward pass."""
    return [(m, name, v) for m in modules for name, v in vars(m).items() if isinstance(v, torch.Tensor)]


def _may_call_dropout(module: nn.Module) -> bool:
    """Whether a module's code may call dropout as a function: attention does, and so may anybody's own module."""
    return isinstance(module, nn.MultiheadAttention) or not type(module).__module__.startswith("torch.nn")


class _WithoutDropout(TorchFunctionMode):
    """A context in which dropout called as a function does nothing, and attention drops nothing."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
                    "feature_dropout"):  # fmt: skip
            return args[0] if args else kwargs["input"]
        if name == "scaled_dot_product_attention":
            if len(args) > 4:
                args = (*args[:4], 0.0, *args[5:])
            else:
                kwargs["dropout_p"] = 0.0
        if name == "multi_head_attention_forward":
            kwargs["training"] = False
        return func(*args, **kwargs)
