"""Which module provides the gradients of which parameter: layers by their rules, all else by the smallest module that
`torch.func` can handle.

Every parameter is first claimed by the modules that own it. The claims are then compared with autograd on single
samples; a parameter whose gradients come out wrong (its weight is used outside its layer, samples do not lie along the
first axis) is claimed by the enclosing module instead, and so on up to the whole model.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge

from sgdphases.estimators.backends.torch.factors import joined
from sgdphases.estimators.backends.torch.rules import (
    NotSampleWise,
    Rule,
    by_torch_func,
    floating,
    rebuilt,
    rule_of,
    tensors_in,
)
from sgdphases.estimators.errors import UsageError

log = logging.getLogger("sgdphases")


@dataclass
class Claim:
    """Parameters a module is responsible for: measured parameters by their name relative to the module."""

    path: str
    module: nn.Module
    rule: Rule | None
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)


@dataclass
class _Call:
    claim: Claim
    inputs: tuple
    keywords: dict[str, Any]
    versions: list[int]
    edges: list[Any]
    shapes: list[torch.Tensor]


class Capture:
    """Factors of all measured parameters from one forward and one backward pass.

    Parameters
    ----------
    root : Module
    parameters : list of Parameter
        The measured ones.
    coarse : bool
        Whether the model rounds to half precision, so that less agreement can be asked for.
    """

    def __init__(self, root: nn.Module, parameters: list[nn.Parameter], *, coarse: bool):
        self.root = root
        self.coarse = coarse
        self.parameters = parameters
        self.claims: dict[str, Claim] = {}
        measured = set(parameters)
        for path, module in root.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter in measured:
                    self._claim(path, name, parameter, rule_of(module))

    def factors(self, run: Callable[[], tuple[torch.Tensor, torch.Tensor]], n: int):
        """Factors by parameter, the losses of n samples and the outputs; ``run`` gives losses, shape (n,), and outputs.

        Raises
        ------
        UsageError
            If what held for the first samples does not hold for these.
        """
        try:
            return self._factors(run, n)
        except _Failed as failed:
            where = failed.claim.path or "the model"
            raise UsageError(f"layer {where}: {failed.reason}; use estimator='sampled'.") from failed

    def _factors(self, run: Callable[[], tuple[torch.Tensor, torch.Tensor]], n: int):
        calls, losses, outputs = self._run(run)
        edges = [edge for call in calls for edge in call.edges]
        found = iter(torch.autograd.grad(losses.sum(), edges, allow_unused=True) if edges else ())
        factors: dict[nn.Parameter, Any] = {}
        for call in calls:
            deltas: list[torch.Tensor | None] = [next(found) for _ in call.edges]
            for parameter, factor in self._answers(call, deltas, n):
                factors[parameter] = joined(factors[parameter], factor) if parameter in factors else factor
        return factors, losses.detach(), outputs.detach()

    def settle(self, run: Callable[[list[int]], tuple[torch.Tensor, torch.Tensor]], samples: list[int]) -> None:
        """Move claims up until the gradient of each of a few samples is what autograd gives for it alone.

        Raises
        ------
        UsageError
            If the loss of a sample depends on the others, or not even the whole model can be differentiated by sample.
        """
        losses, expected = [], []
        for sample in samples:
            loss, _ = run([sample])
            losses.append(float(loss.detach()[0]))
            expected.append(torch.autograd.grad(loss.sum(), self.parameters, allow_unused=True))
        self._refuse_coupling(run, samples, losses)
        while True:
            wrong = self._wrong(lambda: run(samples), len(samples), expected)
            if not wrong:
                break
            for parameter, reason in wrong.items():
                self._raise_claim(parameter, reason)
        slow = [claim for claim in self.claims.values() if claim.rule is None]
        if slow:
            names = ", ".join(f"{claim.path or 'the model'} ({type(claim.module).__name__})" for claim in slow)
            log.warning("per-sample gradients by torch.func, which is slower: %s", names)

    def _run(self, run: Callable[[], tuple[torch.Tensor, torch.Tensor]]):
        calls: list[_Call] = []

        def hook(claim: Claim):
            def keep(module, inputs, keywords, output):
                # Edges of the graph, not tensors: what follows may overwrite the output in place.
                out = floating(output)
                given = tensors_in((inputs, keywords))
                edges = [get_gradient_edge(values) if values.requires_grad else None for values in out]
                shapes = [values.detach() for values in out]
                detached = rebuilt((inputs, keywords), iter([values.detach() for values in given]))
                calls.append(_Call(claim, *detached, [values._version for values in given], edges, shapes))

            return keep

        hooks = [
            claim.module.register_forward_hook(hook(claim), with_kwargs=True)
            for claim in self.claims.values()
            if claim.parameters
        ]
        try:
            with torch.enable_grad():
                losses, outputs = run()
        finally:
            for handle in hooks:
                handle.remove()
        kept = []
        for call in calls:
            if any(edge is not None for edge in call.edges):
                pairs = list(zip(call.edges, call.shapes, strict=True))
                call.shapes = [s for e, s in pairs if e is not None]
                if len(call.shapes) < len(pairs) and call.claim.rule is None:
                    raise _Failed(call.claim, "an output carries no gradient")
                call.edges = [e for e, _ in pairs if e is not None]
                kept.append(call)
        return kept, losses, outputs

    def _answers(self, call: _Call, deltas: list[torch.Tensor | None], n: int):
        claim = call.claim
        filled = [torch.zeros_like(s) if d is None else d for d, s in zip(deltas, call.shapes, strict=True)]
        if [t._version for t in tensors_in((call.inputs, call.keywords))] != call.versions:
            raise _Failed(claim, "its input is overwritten in place")
        try:
            with torch.no_grad():
                if claim.rule is not None:
                    found = claim.rule(claim.module, call.inputs, filled[0], n)
                else:
                    found = by_torch_func(claim.module, list(claim.parameters), call.inputs, call.keywords, filled, n)
        except NotSampleWise:
            raise _Failed(claim, "samples do not lie along its first axis") from None
        except (RuntimeError, ValueError, TypeError) as error:
            raise _Failed(claim, str(error).splitlines()[0]) from error
        return [(parameter, found[name]) for name, parameter in claim.parameters.items()]

    def _wrong(self, run, n: int, expected: list[tuple]) -> dict[nn.Parameter, str]:
        try:
            factors, _, _ = self._factors(run, n)
        except _Failed as failed:
            return dict.fromkeys(failed.claim.parameters.values(), failed.reason)
        wrong = {}
        for k, parameter in enumerate(self.parameters):
            own = [torch.zeros_like(parameter) if row[k] is None else row[k] for row in expected]
            rows = torch.stack([values.flatten() for values in own]).float()
            found = factors[parameter].dense().float() if parameter in factors else torch.zeros_like(rows)
            scale = max(float(rows.abs().max()), 1e-30)
            if float((found - rows).abs().max()) > (0.1 if self.coarse else 2e-3) * scale:
                wrong[parameter] = "its gradients differ from those of autograd"
        return wrong

    def _refuse_coupling(self, run, samples: list[int], alone: list[float]) -> None:
        with torch.no_grad():
            together = run(samples)[0].double().cpu()
            again = run(samples)[0].double().cpu()
        gap = float((together - torch.tensor(alone).double()).abs().max())
        scale = max(1.0, float(together.abs().max()))
        tolerance = 0.05 if self.coarse else 1e-3
        if float((together - again).abs().max()) > tolerance * scale:
            raise UsageError(
                "the model gives another loss at each forward pass (random layers): call model.eval() first."
            )
        if gap > tolerance * scale:
            raise UsageError(
                "the loss of a sample changes with the others in its batch, so it has no gradient of its own: "
                "use estimator='sampled', which only needs minibatch gradients."
            )

    def _claim(self, path: str, name: str, parameter: nn.Parameter, rule: Rule | None) -> None:
        claim = self.claims.setdefault(path, Claim(path, self.root.get_submodule(path), rule))
        claim.parameters[name] = parameter

    def _raise_claim(self, parameter: nn.Parameter, reason: str) -> None:
        """Have `torch.func` answer for a parameter in place of its owner's rule, or else hand it to an outer module."""
        owners = [path for path, claim in self.claims.items() if any(p is parameter for p in claim.parameters.values())]
        if len(owners) == 1 and self.claims[owners[0]].rule is not None:
            self.claims[owners[0]].rule = None
            return
        if owners == [""]:
            name = next(name for name, p in self.root.named_parameters() if p is parameter)
            raise UsageError(f"parameter {name!r} has no per-sample gradient here: {reason}; use estimator='sampled'.")
        levels = zip(*(path.split(".")[:-1] for path in owners), strict=False)
        above = ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))
        for path in owners:
            claim = self.claims[path]
            claim.parameters = {name: p for name, p in claim.parameters.items() if p is not parameter}
        self.claims = {path: claim for path, claim in self.claims.items() if claim.parameters}
        name = next(name for name, p in self.root.get_submodule(above).named_parameters() if p is parameter)
        self._claim(above, name, parameter, None)


def numbers_held(root: nn.Module, factors: Callable[[], dict[Any, Any]]) -> int:
    """What a pass leaves in memory: the outputs of all layers, and the factors."""
    counted = [0]

    def count(module, inputs, output):
        counted[0] += sum(values.numel() for values in tensors_in(output))

    hooks = [m.register_forward_hook(count) for m in root.modules() if not any(True for _ in m.children())]
    try:
        found = factors()
    finally:
        for hook in hooks:
            hook.remove()
    return counted[0] + sum(factor.numel() for factor in found.values())


class _Failed(Exception):
    """A claim that cannot be satisfied in its present form."""

    def __init__(self, claim: Claim, reason: str):
        super().__init__(reason)
        self.claim, self.reason = claim, reason
