"""Per-sample gradients of recurrent layers: unrolled in time, they are linear layers used at every step.

The gates of a step are ``x W_ih' + h W_hh' + b_ih + b_hh``; the loss derivatives at them are found by going back
through the unrolled layer, and each weight's gradient is a sum over steps of outer products.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sgdphases.estimators.backends.torch.factors import Explicit, Outer


class _Gates:
    """One set of weights at all its steps: what went in, and the gates as leaves of the backward pass."""

    def __init__(self, module: nn.Module, suffix: str):
        self.names = [f"{name}{suffix}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        self.weights = [getattr(module, name, None) for name in self.names]
        self.inputs: list[torch.Tensor] = []
        self.states: list[torch.Tensor] = []
        self.linear: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights: list[Any] = [None if w is None else w.detach() for w in self.weights]
        w_ih, w_hh, b_ih, b_hh = weights
        found = F.linear(x, w_ih, b_ih), F.linear(h, w_hh, b_hh)
        for each in found:
            if not each.requires_grad:
                each.requires_grad_(True)
        self.inputs.append(x.detach())
        self.states.append(h.detach())
        self.linear.append(found)
        return found

    def factors(self, deltas: list[torch.Tensor]) -> dict[str, Any]:
        """From derivatives at the gates' two parts, step after step."""
        inputs, states = (torch.stack(values, dim=1)[:, None] for values in (self.inputs, self.states))
        by_input, by_state = (torch.stack(deltas[part::2], dim=1) for part in (0, 1))
        found: list[Any] = [Outer(inputs, by_input[:, None]), Outer(states, by_state[:, None])]
        found += [Explicit(by_input.sum(dim=1)), Explicit(by_state.sum(dim=1))]
        return dict(zip(self.names, found, strict=True))


def _step(kind: str, gates: _Gates, x: torch.Tensor, state: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    a, b = gates(x, state[0])
    if kind == "LSTM":
        i, f, g, o = (a + b).chunk(4, dim=1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
    if kind == "GRU":
        (r, z, n), (r_h, z_h, n_h) = a.chunk(3, dim=1), b.chunk(3, dim=1)
        z = torch.sigmoid(z + z_h)
        n = torch.tanh(n + torch.sigmoid(r + r_h) * n_h)
        return ((1 - z) * n + z * state[0],)
    return (torch.relu(a + b) if kind == "RNN_RELU" else torch.tanh(a + b),)


def layer(module: Any, inputs: tuple, delta: Any, n: int) -> dict[str, Any]:
    """nn.RNN, nn.LSTM and nn.GRU with samples along their batch axis; NotImplementedError for what has no rule."""
    sequence, start = inputs[0], inputs[1] if len(inputs) > 1 else None
    if not isinstance(sequence, torch.Tensor) or sequence.ndim != 3 or module.proj_size:
        raise NotImplementedError("packed, unbatched and projected sequences have no rule")
    batch_axis = 0 if module.batch_first else 1
    if sequence.shape[batch_axis] != n or (module.dropout and module.training and module.num_layers > 1):
        raise NotImplementedError("its batch axis does not hold the samples, or it drops at random")
    kind = module.weight_ih_l0.dtype  # not that of mixed precision
    steps = list(sequence.detach().to(kind).unbind(1 - batch_axis))
    directions = 2 if module.bidirectional else 1
    starts = _starts(module, start, steps[0], module.num_layers * directions)
    used: list[_Gates] = []
    last: list[tuple[torch.Tensor, ...]] = []
    with torch.enable_grad():
        for depth in range(module.num_layers):
            answers = []
            for way in range(directions):
                gates = _Gates(module, f"_l{depth}" + "_reverse" * way)
                used.append(gates)
                state, found = starts[depth * directions + way], []
                for x in reversed(steps) if way else steps:
                    state = _step(module.mode, gates, x, state)
                    found.append(state[0])
                last.append(state)
                answers.append(found[::-1] if way else found)
            steps = [torch.cat(parts, dim=1) for parts in zip(*answers, strict=True)]
        outputs = [torch.stack(steps, dim=1 - batch_axis), *(torch.stack(part) for part in zip(*last, strict=True))]
    return _pulled_back(used, outputs, delta)


def cell(module: Any, inputs: tuple, delta: Any, n: int) -> dict[str, Any]:
    """nn.RNNCell, nn.LSTMCell and nn.GRUCell."""
    x, start = inputs[0].to(module.weight_ih.dtype), inputs[1] if len(inputs) > 1 else None
    if x.ndim != 2 or len(x) != n:
        raise NotImplementedError("its first axis does not hold the samples")
    kinds = {nn.LSTMCell: "LSTM", nn.GRUCell: "GRU"}
    kind = next((name for each, name in kinds.items() if isinstance(module, each)), "RNN")
    if kind == "RNN" and module.nonlinearity == "relu":
        kind = "RNN_RELU"
    if start is None:
        start = x.new_zeros(n, module.hidden_size)
        start = (start, start) if kind == "LSTM" else start
    with torch.enable_grad():
        gates = _Gates(module, "")
        states = start if isinstance(start, tuple) else (start,)
        outputs = _step(kind, gates, x.detach(), tuple(state.detach().to(x) for state in states))
    return _pulled_back([gates], list(outputs), delta)


def _starts(module: Any, start: Any, like: torch.Tensor, count: int) -> list[tuple[torch.Tensor, ...]]:
    """The first state of each layer and direction."""
    is_lstm = module.mode == "LSTM"
    if start is None:
        zeros = like.new_zeros(len(like), module.hidden_size)
        return [(zeros, zeros) if is_lstm else (zeros,)] * count
    parts = start if is_lstm else (start,)
    return list(zip(*(part.detach().to(like).unbind(0) for part in parts), strict=True))


def _pulled_back(used: list[_Gates], outputs: list[torch.Tensor], delta: Any) -> dict[str, Any]:
    deltas = [d.to(outputs[0].dtype) for d in (delta if isinstance(delta, list) else [delta])]
    leaves = [part for gates in used for pair in gates.linear for part in pair]
    pulled = torch.autograd.grad(outputs[: len(deltas)], leaves, deltas, allow_unused=True)
    found = [torch.zeros_like(leaf) if d is None else d for leaf, d in zip(leaves, pulled, strict=True)]
    factors: dict[str, Any] = {}
    for gates in used:
        own, found = found[: 2 * len(gates.linear)], found[2 * len(gates.linear) :]
        factors |= gates.factors(own)
    return factors
