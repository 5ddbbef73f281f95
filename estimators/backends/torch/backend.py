"""Any PyTorch module, on any device: per-sample quantities from a forward and a backward pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from sgdphases.estimators.backend import SampleGradients, Scores
from sgdphases.estimators.backends.mlp import MLP
from sgdphases.estimators.backends.parameters import chosen_parameters
from sgdphases.estimators.backends.torch.capture import Capture, numbers_held
from sgdphases.estimators.backends.torch.check import (
    ALLOWED,
    COARSE,
    FEW,
    MOST,
    TOTAL,
    Run,
    dense,
    moved_at_random,
    widened,
)
from sgdphases.estimators.backends.torch.factors import accumulator
from sgdphases.estimators.backends.torch.forward import HALF, Forward
from sgdphases.estimators.backends.torch.loss import SUBSETS, check_mean_over_subsets, varied_samples
from sgdphases.estimators.backends.torch.models import (
    copied,
    float_type,
    module_from_mlp,
    moved,
    refuse_unsupported,
    unwrapped,
)
from sgdphases.estimators.backends.torch.modes import Modes, coupling_layers
from sgdphases.estimators.errors import InputError, UsageError

CHUNK_NUMBERS = 2**23  # factors held at once on a CPU: small enough for its caches
MOST_NUMBERS = {"cpu": 2**27, "cuda": 2**28, "mps": 2**26}  # held at once, even where few samples fill them
CHECKED_NUMBERS = 2**25  # in the samples that a check adds up
FEW_SAMPLES = 32  # a chunk is no smaller, unless that takes MOST_NUMBERS


def _without_autocast(method: Callable) -> Callable:
    """A method whose arithmetic is not touched by mixed precision that the caller is in."""

    @wraps(method)
    def inside(self, *given, **options):
        if not torch.is_autocast_enabled(self.device.type):
            return method(self, *given, **options)
        with torch.autocast(self.device.type, enabled=False, cache_enabled=False):
            return method(self, *given, **options)

    return inside


class TorchBackend:
    """PyTorch modules by layer factors, without a loop over samples.

    Linear, Conv1d and Conv2d, Embedding, LayerNorm, RMSNorm, GroupNorm, InstanceNorm and frozen BatchNorm have closed
    forms; layers without parameters need none; layers used twice and shared weights are recognised. All other modules
    go through `torch.func`, with a line in the log. Gradients are compared with autograd on construction, at weights
    moved a little so that none of them vanish, and on other samples at every measurement.

    Parameters
    ----------
    model : torch.nn.Module or MLP
        A module is used as it is, its weights shared with the caller, unless a dtype or device asks for a copy. The
        module within, where it is wrapped by DistributedDataParallel or `torch.compile`; compiled code is not used.
        Parameters that do not require a gradient are left out of every gradient.
    x : ndarray, shape (N, ...)
        Or a dictionary of such for a model that takes keywords, or a tuple for one that takes several. Integers are
        handed on as such to a model that takes them. Each pass works on a copy of its samples.
    y : ndarray, shape (N,) or (N, ...)
        Integer class labels or real targets.
    loss : {"cross-entropy", "squared"} or callable
        A callable takes a batch's outputs and targets and gives their mean loss, as PyTorch's losses do.
    dtype : None, "float16", "bfloat16", "float32" or "float64"
        None keeps the module's own (float32 for an MLP). Sums over samples and layers are float64 either way.
    device : None or str
        As PyTorch names it: "cpu", "cuda", "cuda:1", "mps". None stays where the module is.
    parameters : str, list of str, or None
        Parameters to measure, by name, ``*`` allowed; None takes all that require a gradient. Training moves all.
    batch_norm : {"batch", "frozen"}
        Whether BatchNorm layers in training mode use the minibatch's statistics, as in training (then only the sampled
        ensemble exists), or their running ones.
    dropout : {"off", "mask"}
        Without dropout, or with one mask a layer, the same for every sample: a fixed thinned network.
    autocast : None, "float16" or "bfloat16"
        Mixed precision: forward passes under `torch.autocast`.
    output : None, str, int or callable
        Which part of the model's answer the loss takes, where it answers with a dictionary, a tuple or an object: a
        key, an index, the name of an attribute, or a function of the answer.
    loss_of : None or callable
        ``loss_of(model, x)`` gives the losses of the samples of a batch, shape (n,), in place of ``loss``: for whatever
        else a model needs. Each is a function of its sample alone, and training minimises their mean. Then x is the
        whole batch, targets and all, nested as ``loss_of`` takes it, and y is not used.
    keep_activations : bool
        Keep the factors of the whole training set between the two passes of a measurement: faster, where they fit.
    per_sample : bool
        False knows minibatch gradients only: all that the sampled estimator needs. Then samples may be coupled, by the
        model or by a callable loss, which is applied to a minibatch as a whole.

    Raises
    ------
    UsageError
        For a setting this backend does not know, a device that is not there, or a model whose samples are
        coupled.
    InputError
        If data and network do not fit together.
    """

    def __init__(
        self,
        model: nn.Module | MLP,
        x,
        y,
        *,
        loss: str | Callable = "cross-entropy",
        dtype=None,
        device: str | None = None,
        parameters: str | Sequence[str] | None = None,
        batch_norm: str = "batch",
        dropout: str = "off",
        autocast: str | None = None,
        output: str | int | Callable | None = None,
        loss_of: Callable | None = None,
        keep_activations: bool = False,
        per_sample: bool = True,
    ):
        model = unwrapped(model) if isinstance(model, nn.Module) else model
        if isinstance(model, MLP):
            model, dtype = module_from_mlp(model), dtype or "float32"
        elif not isinstance(model, nn.Module):
            raise UsageError(f"the torch backend takes a torch.nn.Module or an MLP, not {type(model).__name__}.")
        elif dtype is not None or device is not None:
            model = copied(model)
        refuse_unsupported(model, per_sample=per_sample)
        self.module = moved(model, dtype, device)
        trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        if not trained:
            raise UsageError("the model has no parameter that requires a gradient: there is nothing to measure.")
        self._trained = list(trained.values())
        self._parameters = [trained[name] for name in chosen_parameters(list(trained), parameters)]
        self.device, self.dtype = self._parameters[0].device, self._parameters[0].dtype
        ends = np.cumsum([0, *(p.numel() for p in self._parameters)]).tolist()
        self._slots = {p: slice(*ends[k : k + 2]) for k, p in enumerate(self._parameters)}
        self.n_parameters = ends[-1]
        self._modes = Modes(self.module, batch_norm, dropout)
        narrow = float_type(autocast, "autocast") if autocast is not None else None
        self.is_coarse = narrow is not None or any(p.dtype in HALF for p in self._parameters)  # half precision
        self._keep = keep_activations
        self._kept: dict[bytes, Any] | None = None
        self._uploaded: tuple[Any, torch.Tensor] | None = None
        self._built = self._description()
        lead = self._parameters[0]
        self._forward = Forward(self.module, self._modes, loss, output, narrow, lead, per_sample, loss_of)
        self._forward = self._forward.on(x, y)
        self.n_samples = self._forward.n_samples
        self.coupled = coupling_layers(self.module) if batch_norm == "batch" else []
        self._capture = Capture(self.module, self._parameters)
        self._checked = 0
        self.only_minibatches = bool(self.coupled) or not per_sample
        if self.only_minibatches:
            self.chunk_size = self.n_samples
        else:
            self._settle()
            self.chunk_size = self._fitting_chunk()

    @property
    def loss(self) -> str | Callable:
        return self._forward.loss

    @property
    def labels(self) -> np.ndarray:
        """Class labels, shape (N,); -1 throughout where there are none."""
        return self._forward.labels

    @_without_autocast
    def _settle(self) -> None:
        """Decide how each parameter's gradients are captured, and check the loss, at weights moved a little."""
        candidates = varied_samples(self._forward.labels, max(MOST, 2 * sum(SUBSETS)), np.random.default_rng(0))
        at_first, refused = self._capture.ways, None
        with moved_at_random(self.module), self._modes:
            self._check_mean(candidates)
            try:
                self._capture.settle(self._forward, candidates, COARSE if self.is_coarse else ALLOWED)
            except UsageError as error:
                refused = error
        if self.is_coarse or refused is not None or self._capture.ways != at_first:
            own, self._capture = self._capture, Capture(self.module, self._parameters)
            found = self._on_copy(lambda capture, run: capture.settle(run, candidates, ALLOWED), moved_at_random)
            if not found:
                self._capture = own
                if refused is not None:
                    raise refused
        self._capture.report()

    def _on_copy(self, ask: Callable[[Capture, Run], Any], moved=lambda module: nullcontext()) -> bool:
        """Ask a copy of the model in a wider dtype, where rounding does not blur the answer, and take over its claims.

        False, and nothing is taken over, where there is no such copy or it does not work.
        """
        wide = widened(self.module, torch.float32 if self.is_coarse else torch.float64)
        if wide is None or self.dtype == torch.float64 or self.device.type == "mps":
            return False
        names = {p: name for name, p in self.module.named_parameters()}
        own = dict(wide.named_parameters())
        capture = Capture(wide, [own[names[p]] for p in self._parameters])
        capture.adopt(self._capture)
        modes = Modes(wide, self._modes.batch_norm, self._modes.dropout)

        def run(index):
            found = self._forward(index, wide)
            modes.put_back_buffers()
            return found

        try:
            with moved(wide), modes:
                answer = ask(capture, run)
        except UsageError:
            raise
        except Exception:  # somebody's module or loss may know one dtype only
            return False
        if answer is not False:
            self._capture.adopt(capture)
        return answer is not False

    def _check_mean(self, candidates: np.ndarray) -> None:
        if callable(self.loss) and self._forward.loss_of is None:
            with torch.no_grad():
                index = torch.from_numpy(candidates[: sum(SUBSETS)]).to(self.device)
                check_mean_over_subsets(self._forward, index)

    def _description(self) -> list[tuple]:
        parameters = [(name, id(p), p.requires_grad, tuple(p.shape)) for name, p in self.module.named_parameters()]
        return parameters + [(name or "the model", id(module)) for name, module in self.module.named_modules()]

    def check_unchanged(self) -> None:
        """Raise a UsageError if layers or parameters were added, removed, replaced, frozen or unfrozen meanwhile."""
        now = self._description()
        if now != self._built:
            names = sorted({entry[0] for entry in set(now) ^ set(self._built)})
            raise UsageError(
                f"the model has changed since this backend was made ({', '.join(names[:5])}): make a new one around it."
            )

    @property
    def weights(self) -> np.ndarray:
        flat = nn.utils.parameters_to_vector(self._trained).detach().cpu()
        return (flat if flat.dtype == torch.float64 else flat.float()).numpy().copy()

    def load_weights(self, weights: np.ndarray) -> None:
        n_weights = sum(p.numel() for p in self._trained)
        if np.shape(weights) != (n_weights,):
            raise InputError(f"weights of shape {np.shape(weights)} do not fit a model with {n_weights} of them.")
        flat = torch.from_numpy(np.asarray(weights)).to(self.device)
        with torch.no_grad():
            for parameter, part in zip(self._trained, flat.split([p.numel() for p in self._trained]), strict=True):
                parameter.copy_(part.view_as(parameter))

    def on(self, x, y) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._kept = other._uploaded = None
        other._forward = self._forward.on(x, y)
        other.n_samples = other._forward.n_samples
        return other

    def scores(self, indices: np.ndarray) -> Scores:
        return self.judged(indices)[0]

    @_without_autocast
    def judged(self, indices: np.ndarray) -> tuple[Scores, np.ndarray]:
        """Scores, and the class that the model gives each sample, shape (n,), int64; -1 where there are no classes."""
        with torch.no_grad(), self._modes:
            index = self._forward.index(indices)
            losses, outputs = self._forward.shared_out(index) if self.only_minibatches else self._forward(index)
            scores = Scores(_numpy(losses), self._forward.correct(indices, outputs))
            return scores, self._forward.answers(outputs)

    def gradient_sums(self, indices: np.ndarray) -> SampleGradients:
        return self.judged_gradient_sums(indices)[0]

    @_without_autocast
    def judged_gradient_sums(self, indices: np.ndarray) -> tuple[SampleGradients, np.ndarray]:
        """`gradient_sums`, and the class that the model gives each sample, as in `judged`."""
        factors, losses, outputs = self._factors(indices)
        self._forward.check_mean(self._forward.index(indices), losses, outputs)
        norms, pieces = self._zeros(len(indices)), []
        for parameter in self._parameters:
            if parameter not in factors:
                pieces.append(torch.zeros(parameter.numel(), device=self.device))
                continue
            squares, piece = factors[parameter].squares_and_sum()
            norms += squares
            pieces.append(piece)
        total = torch.cat(pieces)
        found = SampleGradients(_numpy(losses), self._forward.correct(indices, outputs), _numpy(norms), total)
        return found, self._forward.answers(outputs)

    @_without_autocast
    def projections(self, indices: np.ndarray, directions: np.ndarray) -> np.ndarray:
        factors, _, _ = self._factors(indices)
        rows = self._on_device(directions)
        out = self._zeros(len(indices), len(rows))
        for parameter, factor in factors.items():
            out += factor.projections(rows[:, self._slots[parameter]])
        return _numpy(out)

    @_without_autocast
    def weighted_sums(self, indices: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        columns = self._columns(coefficients)
        if self.only_minibatches:
            return self._minibatch_sums(indices, columns)
        factors, _, _ = self._factors(indices)
        return _numpy(self._gathered(factors, columns))

    @_without_autocast
    def gram(self, indices: np.ndarray, others: np.ndarray) -> np.ndarray:
        factors, _, _ = self._factors(indices)
        second = factors if others is indices else self._factors(others)[0]
        total = self._zeros(len(indices), len(others))
        for parameter, factor in factors.items():
            if parameter in second:
                total += factor.inner(second[parameter])
        return _numpy(total)

    @_without_autocast
    def hessian_products(self, indices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        rows = self._on_device(vectors).to(self.dtype)
        with torch.enable_grad(), self._modes:
            losses, _ = self._forward(self._forward.index(indices))
            gradients = torch.autograd.grad(losses.sum(), self._parameters, create_graph=True, allow_unused=True)
            used = [(p, g) for p, g in zip(self._parameters, gradients, strict=True) if g is not None]
            out = self._zeros(len(rows), self.n_parameters)
            for k, row in enumerate(rows):
                along = sum((g * row[self._slots[p]].view_as(p)).sum() for p, g in used)
                if not along.requires_grad:
                    continue
                products = torch.autograd.grad(along, self._parameters, retain_graph=True, allow_unused=True)
                for parameter, product in zip(self._parameters, products, strict=True):
                    if product is not None:
                        out[k, self._slots[parameter]] = dense(product).flatten().to(out.dtype)
        return _numpy(out)

    @_without_autocast
    def train(self, order: np.ndarray, batch_size: int, learning_rate: float) -> None:
        with self._modes.training():
            for batch in torch.from_numpy(np.asarray(order, dtype=np.int64)).to(self.device).split(batch_size):
                losses, _ = self._forward(batch)
                gradients = torch.autograd.grad(losses.mean(), self._trained, allow_unused=True)
                moved = [(p, dense(g)) for p, g in zip(self._trained, gradients, strict=True) if g is not None]
                with torch.no_grad():
                    torch._foreach_add_([p for p, _ in moved], [g for _, g in moved], alpha=-learning_rate)

    @contextmanager
    def frozen_weights(self) -> Iterator[None]:
        """A context in which the weights do not change, so that factors may be kept."""
        self.check_unchanged()
        if not self.only_minibatches:
            self._check_again()
        self._kept = {} if self._keep else None
        try:
            yield
        finally:
            self._kept = self._uploaded = None

    @_without_autocast
    def _check_again(self) -> None:
        """Compare captured gradients with autograd at the present weights, on other samples each time.

        Where they differ, the ways are chosen again on these samples; what cannot be settled is refused.
        """
        self._checked += 1
        rng = np.random.default_rng([1, self._checked])
        samples = varied_samples(self._forward.labels, self._checked_at_once, rng)
        with self._modes:
            if self._agrees(samples):
                return
            if not self._on_copy(lambda capture, run: capture.settle(run, samples[:FEW], ALLOWED)):
                self._capture.settle(self._forward, samples[:FEW], COARSE if self.is_coarse else ALLOWED)
            self._capture.report()
            if not self._agrees(samples):
                raise UsageError(
                    "per-sample gradients do not agree with those of autograd at these weights: "
                    "use estimator='sampled', which needs only minibatch gradients."
                )

    def _agrees(self, samples: np.ndarray) -> bool:
        """Whether captured gradients are those of autograd: of two samples alone, and summed over all."""
        few, allowed = samples[:2].tolist(), COARSE if self.is_coarse else ALLOWED
        if not self._capture.agrees_in_sum(self._forward, samples.tolist(), allowed):
            return False
        return self._capture.agrees_alone(self._forward, few, allowed) or self._on_copy(
            lambda capture, run: capture.agrees_alone(run, few, ALLOWED)
        )

    def _factors(self, indices: np.ndarray):
        if self.coupled:
            raise UsageError(
                f"layer {self.coupled[0]} normalises with the statistics of its minibatch, so a sample has no gradient "
                "of its own: give batch_norm='frozen' to take its running statistics, or `measure` with "
                "estimator='sampled', which keeps those of the minibatch."
            )
        if self.only_minibatches:
            raise UsageError("per_sample=False knows gradients of minibatches only: use estimator='sampled'.")
        key = np.asarray(indices).tobytes()
        if self._kept is not None and key in self._kept:
            return self._kept[key]
        with self._modes:
            index = self._forward.index(indices)
            found = self._capture.factors(lambda: self._forward(index), len(indices))
        if self._kept is not None:
            self._kept[key] = found
        return found

    def _minibatch_sums(self, indices: np.ndarray, columns: torch.Tensor) -> np.ndarray:
        out = self._zeros(len(columns.T), self.n_parameters)
        with torch.enable_grad(), self._modes:
            losses, _ = self._forward.as_minibatch(self._forward.index(indices), whole=bool((columns == 1).all()))
            for row, column in zip(out, columns.T.to(losses.dtype), strict=True):
                gradients = torch.autograd.grad(
                    (losses * column).sum(), self._parameters, retain_graph=True, allow_unused=True
                )
                for parameter, gradient in zip(self._parameters, gradients, strict=True):
                    if gradient is not None:
                        row[self._slots[parameter]] = dense(gradient).flatten().to(out.dtype)
        return _numpy(out)

    def _gathered(self, factors, columns: torch.Tensor) -> torch.Tensor:
        """Weighted sums of all parameters side by side, shape (k, P)."""
        k = columns.shape[1]
        pieces = [
            factors[p].weighted_sums(columns) if p in factors else torch.zeros(k, p.numel(), device=self.device)
            for p in self._parameters
        ]
        return torch.cat(pieces, dim=1)

    def _columns(self, coefficients: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(coefficients, dtype=np.float64)).to(self.device, accumulator(self.device))

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=accumulator(self.device), device=self.device)

    def _on_device(self, directions: Any) -> torch.Tensor:
        """Directions in the dtype of the factors, uploaded once however many chunks ask with them."""
        if self._uploaded is None or self._uploaded[0] is not directions:
            kept = torch.float64 if self.dtype == torch.float64 else torch.float32
            self._uploaded = directions, torch.from_numpy(np.asarray(directions)).to(kept).to(self.device)
        return self._uploaded[1]

    @_without_autocast
    def _fitting_chunk(self) -> int:
        few = np.arange(min(2, self.n_samples))
        numbers = max(1, numbers_held(self.module, lambda: self._factors(few)[0]) // len(few))
        most = MOST_NUMBERS.get(self.device.type, 2**26)
        at_once = CHUNK_NUMBERS if self.device.type == "cpu" else most
        chunk = max(1, at_once // numbers, min(FEW_SAMPLES, most // numbers))
        self._checked_at_once = min(TOTAL, chunk, max(FEW, CHECKED_NUMBERS // numbers))
        return chunk


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()
