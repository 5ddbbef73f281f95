"""Any PyTorch module made of Linear layers, activations and Flatten, on any device."""

import copy
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from sgdphases.estimators.backend import SampleGradients, Scores
from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.estimators.mlp import MLP
from sgdphases.estimators.targets import is_correct, prepare_samples

CHUNK_NUMBERS = 2**23  # activations held at once
_ACTIVATIONS = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid,
    nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh,
    nn.Tanhshrink, nn.Threshold,
)  # fmt: skip
_KNOWN = (*_ACTIVATIONS, nn.Linear, nn.Flatten, nn.Identity)
_DTYPES: dict[np.dtype, torch.dtype] = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


class _Erf(nn.Module):
    def forward(self, z):
        return torch.erf(z / 2**0.5)


class _Factors(NamedTuple):
    """Of one Linear layer: its inputs, shape (n, in), and the loss derivatives at its outputs, shape (n, out)."""

    layer: nn.Linear
    inputs: torch.Tensor
    delta: torch.Tensor


class TorchBackend:
    """PyTorch modules by layer factors: a forward and a backward pass, no loop over samples.

    Parameters
    ----------
    model : torch.nn.Module or MLP
        A module is used as it is, its weights shared with the caller, unless a dtype or device asks for a copy.
        Parameters that do not require a gradient are left out of every gradient.
    x : ndarray, shape (N, ...)
    y : ndarray, shape (N,) or (N, outputs)
        Integer class labels or real targets.
    loss : {"cross-entropy", "squared"}
    dtype : None, "float32" or "float64"
        None keeps the module's own (float32 for an MLP).
    device : None or str
        As PyTorch names it: "cpu", "cuda", "cuda:1", "mps". None stays where the module is.

    Raises
    ------
    UsageError
        For a layer this backend has no factors for, named in the message, or a device that is not there.
    InputError
        If data and network do not fit together.
    """

    def __init__(
        self, model: nn.Module | MLP, x, y, *, loss: str = "cross-entropy", dtype=None, device: str | None = None
    ):
        if isinstance(model, MLP):
            model, dtype = module_from_mlp(model), dtype or np.float32
        elif not isinstance(model, nn.Module):
            raise UsageError(f"the torch backend takes a torch.nn.Module or an MLP, not {type(model).__name__}.")
        elif dtype is not None or device is not None:
            model = copy.deepcopy(model)
        self._layers = _linear_layers(model)
        self.module = _moved(model, dtype, device)
        self._parameters = [p for p in self.module.parameters() if p.requires_grad]
        if not self._parameters:
            raise UsageError("the model has no parameter that requires a gradient: there is nothing to measure.")
        self.device, self.dtype = self._parameters[0].device, self._parameters[0].dtype
        self._slots = _slots(self._parameters)
        self.n_parameters = sum(p.numel() for p in self._parameters)
        self._attach(x, y, loss)
        self._check_factors()

    def _attach(self, x, y, loss: str) -> None:
        kept = next((dtype for dtype, own in _DTYPES.items() if own == self.dtype), None)
        if kept is None:
            raise UsageError(f"the model has dtype {self.dtype}: the torch backend knows float32 and float64.")
        n_outputs, numbers = self._try_forward(x, kept)
        samples = prepare_samples(x, y, n_outputs=n_outputs, loss=loss, dtype=kept)
        self.loss, self.labels, self.n_samples = samples.loss, samples.labels, samples.n_samples
        self._inputs = torch.from_numpy(samples.inputs).to(self.device)
        self._targets = torch.from_numpy(samples.targets).to(self.device)
        self.chunk_size = max(1, CHUNK_NUMBERS // numbers)

    @property
    def weights(self) -> np.ndarray:
        return nn.utils.parameters_to_vector(self._parameters).detach().cpu().numpy().copy()

    def load_weights(self, weights: np.ndarray) -> None:
        if np.shape(weights) != (self.n_parameters,):
            raise InputError(
                f"weights of shape {np.shape(weights)} do not fit a model with {self.n_parameters} parameters."
            )
        flat = torch.from_numpy(np.asarray(weights)).to(self.device, self.dtype)
        with torch.no_grad():
            for parameter in self._parameters:
                parameter.copy_(self._view(flat, parameter))

    def on(self, x, y) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._attach(x, y, self.loss)
        return other

    def scores(self, indices: np.ndarray) -> Scores:
        with torch.no_grad():
            index, outputs = self._outputs(indices)
            return Scores(_numpy(self._losses(index, outputs)), self._correct(indices, outputs))

    def gradient_sums(self, indices: np.ndarray) -> SampleGradients:
        factors, losses, outputs = self._factors(indices)
        total = torch.zeros(self.n_parameters, dtype=torch.float64, device=self.device)
        norms = torch.zeros(len(indices), dtype=torch.float64, device=self.device)
        for layer, inputs, delta in factors:
            size = _row_squares(delta)
            if layer.weight.requires_grad:
                self._view(total, layer.weight).add_((delta.T @ inputs).double())
                norms += size * _row_squares(inputs)
            if layer.bias is not None and layer.bias.requires_grad:
                self._view(total, layer.bias).add_(delta.sum(dim=0, dtype=torch.float64))
                norms += size
        return SampleGradients(_numpy(losses), self._correct(indices, outputs), _numpy(norms), _numpy(total))

    def projections(self, indices: np.ndarray, directions: np.ndarray) -> np.ndarray:
        factors, _, _ = self._factors(indices)
        rows = torch.from_numpy(np.asarray(directions)).to(self.device, self.dtype)
        out = torch.zeros(len(indices), len(rows), dtype=torch.float64, device=self.device)
        for layer, inputs, delta in factors:
            for k, direction in enumerate(rows):
                if layer.weight.requires_grad:
                    out[:, k] += (inputs @ self._view(direction, layer.weight).T * delta).sum(
                        dim=1, dtype=torch.float64
                    )
                if layer.bias is not None and layer.bias.requires_grad:
                    out[:, k] += (delta * self._view(direction, layer.bias)).sum(dim=1, dtype=torch.float64)
        return _numpy(out)

    def gram(self, indices: np.ndarray) -> np.ndarray:
        factors, _, _ = self._factors(indices)
        total = torch.zeros(len(indices), len(indices), dtype=torch.float64, device=self.device)
        for layer, inputs, delta in factors:
            a, d = inputs.double(), delta.double()
            of_inputs = a @ a.T if layer.weight.requires_grad else torch.zeros_like(total)
            if layer.bias is not None and layer.bias.requires_grad:
                of_inputs += 1
            total += of_inputs * (d @ d.T)
        return _numpy(total)

    def train(self, order: np.ndarray, batch_size: int, learning_rate: float) -> None:
        for batch in torch.from_numpy(np.asarray(order)).to(self.device).split(batch_size):
            loss = self._losses(batch, self.module(self._inputs[batch])).mean()
            gradients = torch.autograd.grad(loss, self._parameters)
            with torch.no_grad():
                torch._foreach_add_(list[torch.Tensor](self._parameters), gradients, alpha=-learning_rate)

    def _outputs(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.from_numpy(np.asarray(indices)).to(self.device)
        return index, self.module(self._inputs[index])

    def _losses(self, index: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        targets = self._targets[index]
        if self.loss == "squared":
            return 0.5 * ((outputs - targets) ** 2).sum(dim=1)
        return F.cross_entropy(outputs, targets, reduction="none")

    def _factors(self, indices: np.ndarray) -> tuple[list[_Factors], torch.Tensor, torch.Tensor]:
        """Layer factors, losses and outputs; needs gradients on whatever the caller has set."""
        seen: dict[nn.Linear, tuple[torch.Tensor, Any]] = {}

        def keep(layer, inputs, output):
            if layer in seen:
                raise UsageError(f"layer {self._layers[layer]!r} is used twice in one pass: not supported yet.")
            # The edge of the graph, not the tensor: an activation may overwrite the tensor in place.
            seen[layer] = inputs[0].detach(), torch.autograd.graph.get_gradient_edge(output)

        hooks = [layer.register_forward_hook(keep) for layer in self._layers]
        try:
            with torch.enable_grad():
                index, outputs = self._outputs(indices)
                losses = self._losses(index, outputs)
                deltas = torch.autograd.grad(losses.sum(), [edge for _, edge in seen.values()])
        finally:
            for hook in hooks:
                hook.remove()
        factors = [_Factors(layer, a, d) for (layer, (a, _)), d in zip(seen.items(), deltas, strict=True)]
        return factors, losses.detach(), outputs.detach()

    def _correct(self, indices: np.ndarray, outputs: torch.Tensor) -> np.ndarray:
        return is_correct(outputs.cpu().numpy(), self.labels[indices])

    def _view(self, flat: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        start, stop = self._slots[parameter]
        return flat[start:stop].view_as(parameter)

    def _try_forward(self, x, dtype: np.dtype) -> tuple[int, int]:
        """Output width, and numbers one sample leaves in the inputs and outputs of all Linear layers."""
        counted = [0]

        def count(layer, inputs, output):
            if inputs[0].ndim != 2:
                raise InputError(
                    f"layer {self._layers[layer]!r} gets inputs of {inputs[0].ndim} dimensions: "
                    "put a Flatten before it."
                )
            counted[0] += inputs[0].numel() + output.numel()

        first = torch.from_numpy(np.asarray(x)[:1].astype(dtype)).to(self.device)
        hooks = [layer.register_forward_hook(count) for layer in self._layers]
        try:
            with torch.no_grad():
                outputs = self.module(first)
        except RuntimeError as error:
            raise InputError(f"the model does not take samples of shape {tuple(first.shape[1:])}: {error}") from error
        finally:
            for hook in hooks:
                hook.remove()
        if outputs.ndim != 2:
            raise InputError(f"the model answers with shape {tuple(outputs.shape)}: it must be (samples, outputs).")
        return outputs.shape[1], counted[0]

    def _check_factors(self) -> None:
        """Hold the factored gradient of the first samples against autograd's: catches weights used outside a layer."""
        few = np.arange(min(2, self.n_samples))
        found = torch.from_numpy(self.gradient_sums(few).gradient_sum)
        index = torch.from_numpy(few).to(self.device)
        loss = self._losses(index, self.module(self._inputs[index])).sum()
        expected = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        names = {id(p): name for name, p in self.module.named_parameters()}
        scale = max((float(e.abs().max()) for e in expected if e is not None), default=0.0)
        for parameter, own in zip(self._parameters, expected, strict=True):
            gap = self._view(found, parameter) - (0.0 if own is None else own.cpu().double())
            if float(gap.abs().max()) > 1e-3 * scale:
                raise UsageError(
                    f"parameter {names[id(parameter)]!r} acts outside its own Linear layer (used directly, or shared): "
                    f"its per-sample gradients cannot be factored."
                )


def module_from_mlp(mlp: MLP) -> nn.Sequential:
    """The same network as a PyTorch module, float64, with the same weights."""
    activations = {"relu": nn.ReLU, "tanh": nn.Tanh, "erf": _Erf}
    steps: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in zip(mlp.layer_sizes, mlp.layer_sizes[1:], strict=False):
        steps += [nn.Linear(fan_in, fan_out), activations[mlp.activation]()]
    module = nn.Sequential(*steps[:-1]).double()
    nn.utils.vector_to_parameters(torch.from_numpy(np.array(mlp.weights, dtype=np.float64)), module.parameters())
    return module


def _linear_layers(model: nn.Module) -> dict[nn.Linear, str]:
    """Linear layers with something to learn, and their names; any layer without factors is an error."""
    layers = {}
    for name, module in model.named_modules():
        leaf = not any(True for _ in module.children())
        if leaf and not isinstance(module, (*_KNOWN, _Erf)):
            raise UsageError(
                f"layer {name or 'model'!r} is a {type(module).__name__}: "
                "the torch backend measures models made of Linear, activations and Flatten."
            )
        if isinstance(module, nn.Linear) and any(p.requires_grad for p in module.parameters()):
            layers[module] = name
    return layers


def _moved(model: nn.Module, dtype, device: str | None) -> nn.Module:
    if dtype is not None:
        if np.dtype(dtype) not in _DTYPES:
            raise UsageError(f"dtype = {dtype}: the torch backend knows float32 and float64.")
        model = model.to(_DTYPES[np.dtype(dtype)])
    if device is None:
        return model
    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device = {device!r} is not available here: {str(error).splitlines()[0]}") from error


def _slots(parameters: list[nn.Parameter]) -> dict[torch.Tensor, tuple[int, int]]:
    ends = np.cumsum([0] + [p.numel() for p in parameters])
    return {p: (int(start), int(stop)) for p, start, stop in zip(parameters, ends, ends[1:], strict=False)}


def _row_squares(values: torch.Tensor) -> torch.Tensor:
    return (values * values).sum(dim=1, dtype=torch.float64)


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()
