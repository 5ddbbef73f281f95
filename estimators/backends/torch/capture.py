"""Which module provides the gradients of which parameter: layers by their rules, all else by the smallest module that
`torch.func` can handle.

Every parameter is first claimed by the modules that own it. The claims are then compared with autograd on single
samples; a parameter whose gradients come out wrong (its weight is used outside its layer, samples do not lie along the
first axis) is claimed by the enclosing module instead, and so on up to the whole model.
"""

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge

from sgdphases.estimators.backends.torch.check import (
    COUPLED,
    Expected,
    Run,
    dense,
    differing,
    floor_of,
    refuse_coupling,
)
from sgdphases.estimators.backends.torch.factors import joined
from sgdphases.estimators.backends.torch.rules.any_module import by_torch_func, one_by_one
from sgdphases.estimators.backends.torch.rules.attention import attention
from sgdphases.estimators.backends.torch.rules.attention_graph import from_products, products_inside
from sgdphases.estimators.backends.torch.rules.layers import WHOLE, rule_of
from sgdphases.estimators.backends.torch.rules.pooling import quick_pools
from sgdphases.estimators.backends.torch.rules.rule import NotSampleWise, Rule
from sgdphases.estimators.backends.torch.tensors import floating, rebuilt, tensors_in
from sgdphases.estimators.errors import UsageError

log = logging.getLogger("sgdphases")


@dataclass
class Claim:
    """Parameters a module is responsible for: measured parameters by their name relative to the module.

    Without a rule it is differentiated by `torch.func`, or ``is_slow``: one sample after the other.
    """

    path: str
    module: nn.Module
    rule: Rule | None
    is_slow: bool = False
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)


@dataclass
class _Call:
    claim: Claim
    inputs: tuple
    keywords: dict[str, Any]
    versions: list[int]
    edges: list[Any]
    shapes: list[torch.Tensor]
    autocast: dict[str, Any]
    rule: Rule | None = None  # in place of the claim's


class Capture:
    """Factors of all measured parameters from one forward and one backward pass.

    Parameters
    ----------
    root : Module
    parameters : list of Parameter
        The measured ones.
    """

    def __init__(self, root: nn.Module, parameters: list[nn.Parameter]):
        self.root = root
        self.parameters = parameters
        self.claims: dict[str, Claim] = {}
        measured = set(parameters)
        whole: dict[str, nn.Module] = {}
        for path, module in root.named_modules():
            if isinstance(module, WHOLE) and rule_of(module) is not None:
                whole[path] = module
            outer = [above for above in whole if above in ("", path) or path.startswith(f"{above}.")]
            owner = outer[0] if outer else path
            inside = path[len(owner) :].removeprefix(".")
            for name, parameter in module.named_parameters(recurse=False):
                if parameter in measured:
                    rule = rule_of(whole.get(owner, module))
                    self._claim(owner, f"{inside}.{name}" if inside else name, parameter, rule)

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
        with torch.enable_grad():
            calls, losses, outputs = self._run(run)
            total = losses.sum()
        edges = [edge for call in calls for edge in call.edges]
        found = iter(torch.autograd.grad(total, edges, allow_unused=True) if edges else ())
        factors: dict[nn.Parameter, Any] = {}
        for call in calls:
            deltas: list[torch.Tensor | None] = [next(found) for _ in call.edges]
            for parameter, factor in self._answers(call, deltas, n):
                factors[parameter] = joined(factors[parameter], factor) if parameter in factors else factor
        return factors, losses.detach(), outputs.detach()

    def settle(self, run: Run, candidates: np.ndarray, allowed: float) -> None:
        """Move claims up until the gradient of each of a few samples is what autograd gives for it alone.

        Parameters
        ----------
        run : callable
            Takes sample numbers and gives their losses and outputs.
        candidates : ndarray of int
            Samples to compare, in the order in which they are taken.
        allowed : float
            Difference allowed, relative to the largest gradient of a parameter.

        Raises
        ------
        UsageError
            If the loss of a sample depends on the others, or not even the whole model can be differentiated by sample.
        """
        with torch.enable_grad():
            expected = Expected(run, self.parameters, candidates)
            refuse_coupling(run, expected, self.parameters, max(COUPLED, 0.5 * allowed))
            while wrong := self._wrong(lambda: run(expected.samples), expected, allowed):
                changed: set[str] = set()
                for parameter, reason in wrong.items():
                    self._raise_claim(parameter, reason, changed)

    @property
    def ways(self) -> dict[str, tuple]:
        """How the parameters of which module are answered for."""
        return {path: (claim.rule, claim.is_slow, *claim.parameters) for path, claim in self.claims.items()}

    def report(self) -> None:
        """A line in the log for each slow way that gradients go."""
        slow = [claim for claim in self.claims.values() if claim.rule is None]
        for is_slow, way in ((False, "by torch.func, which is slower"), (True, "one after the other, which is slow")):
            names = [f"{c.path or 'the model'} ({type(c.module).__name__})" for c in slow if c.is_slow == is_slow]
            if names:
                log.warning("per-sample gradients %s: %s", way, ", ".join(names))

    def agrees_alone(self, run: Run, samples: list[int], allowed: float) -> bool:
        """Whether captured gradients are those of autograd for each of a few samples alone."""
        with torch.enable_grad():
            expected = Expected(run, self.parameters, np.array(samples))
        try:
            factors, _, _ = self._factors(lambda: run(expected.samples), len(expected.samples))
        except _Failed:
            return False
        return not differing(factors, self.parameters, expected, allowed)

    def agrees_in_sum(self, run: Run, samples: list[int], allowed: float) -> bool:
        """Whether captured gradients add up to that of autograd for the samples together."""
        with torch.enable_grad():
            losses, _ = run(samples)
            total = torch.autograd.grad(losses.sum(), self.parameters, allow_unused=True)
        try:
            factors, _, _ = self._factors(lambda: run(samples), len(samples))
        except _Failed:
            return False
        floor = floor_of([total])
        for parameter, gradient in zip(self.parameters, total, strict=True):
            ought = torch.zeros_like(parameter).flatten() if gradient is None else dense(gradient).flatten()
            found, size = torch.zeros_like(ought), 0.0
            if parameter in factors:
                squares, found = factors[parameter].squares_and_sum()
                size = float(squares.sum().sqrt())
            scale = max(size, float(ought.abs().max()))
            if np.isfinite(scale) and float((found.float() - ought.float()).abs().max()) > allowed * max(scale, floor):
                return False
        return True

    def adopt(self, other: "Capture") -> None:
        """Take over the claims of a capture around a copy of the same module."""
        own = dict(self.root.named_parameters(remove_duplicate=False))
        self.claims = {}
        for path, claim in other.claims.items():
            module = self.root.get_submodule(path)
            names = {name: own[f"{path}.{name}" if path else name] for name in claim.parameters}
            self.claims[path] = Claim(path, module, claim.rule, claim.is_slow, names)

    def _run(self, run: Callable[[], tuple[torch.Tensor, torch.Tensor]]):
        calls: list[_Call] = []
        given_to: dict[nn.Module, list[tuple]] = {}
        device = self.parameters[0].device.type

        def before(module, inputs, keywords):
            # To be called once more on what it was given: it, or a hook on it, may work on that in place.
            copies = iter([values.detach().clone() for values in tensors_in((inputs, keywords))])
            given_to.setdefault(module, []).append(rebuilt((inputs, keywords), copies))

        def hook(claim: Claim):
            def keep(module, inputs, keywords, output):
                # Edges of the graph, not tensors: what follows may overwrite the output in place.
                out = floating(output)
                inside = products_inside(module, out) if claim.rule is attention else None
                if inside is not None:
                    versions = [values._version for values in inside.inputs]
                    calls.append(
                        _Call(claim, inside.inputs, {}, versions, inside.edges, inside.answers, {}, from_products)
                    )
                    return
                if claim.rule is None:
                    inputs, keywords = given_to[module].pop()
                given = tensors_in((inputs, keywords))
                edges = [get_gradient_edge(values) if values.requires_grad else None for values in out]
                shapes = [values.detach() for values in out]
                detached = rebuilt((inputs, keywords), iter([values.detach() for values in given]))
                versions = [values._version for values in given]
                calls.append(_Call(claim, *detached, versions, edges, shapes, _autocast_now(device)))

            return keep

        hooks = [
            claim.module.register_forward_hook(hook(claim), with_kwargs=True)
            for claim in self.claims.values()
            if claim.parameters
        ]
        hooks += [
            claim.module.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
            for claim in self.claims.values()
            if claim.parameters and claim.rule is None
        ]
        try:
            with quick_pools(self.root):
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
                rule = call.rule or claim.rule
                if rule is not None:
                    inputs = call.inputs if call.rule else _in_order(claim.module, call.inputs, call.keywords)
                    found = rule(claim.module, inputs, filled if len(filled) > 1 else filled[0], n)
                else:
                    way = one_by_one if claim.is_slow else by_torch_func
                    with torch.autocast(**call.autocast):
                        found = way(claim.module, list(claim.parameters), call.inputs, call.keywords, filled, n)
        except NotSampleWise:
            raise _Failed(claim, "samples do not lie along its first axis") from None
        except Exception as error:  # a transform or somebody's module may raise anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise _Failed(claim, reason, in_transform=claim.rule is None) from error
        if not claim.parameters.keys() <= found.keys():
            raise _Failed(claim, "its parameters are not those of its class")
        return [(parameter, found[name]) for name, parameter in claim.parameters.items()]

    def _wrong(self, run, expected: Expected, allowed: float) -> dict[nn.Parameter, str]:
        try:
            factors, _, _ = self._factors(run, len(expected.samples))
        except _Failed as failed:
            if failed.in_transform and not failed.claim.is_slow:
                failed.claim.is_slow = True
                return self._wrong(run, expected, allowed)
            return dict.fromkeys(failed.claim.parameters.values(), failed.reason)
        wrong = differing(factors, self.parameters, expected, allowed)
        return dict.fromkeys(wrong, "its gradients differ from those of autograd")

    def _claim(self, path: str, name: str, parameter: nn.Parameter, rule: Rule | None) -> None:
        claim = self.claims.setdefault(path, Claim(path, self.root.get_submodule(path), rule))
        claim.rule = claim.rule if rule is not None else None  # a rule knows its own parameters only
        claim.parameters[name] = parameter

    def _raise_claim(self, parameter: nn.Parameter, reason: str, changed: set[str]) -> None:
        """Have `torch.func` answer for a parameter in place of its owner's rule, or else hand it to an outer module.

        ``changed`` are the modules that answer in another way since the last comparison.
        """
        owners = [path for path, claim in self.claims.items() if any(p is parameter for p in claim.parameters.values())]
        if set(owners) & changed:
            return
        if len(owners) == 1 and self.claims[owners[0]].rule is not None:
            self.claims[owners[0]].rule = None
            changed.add(owners[0])
            return
        if owners == [""] and not self.claims[""].is_slow:
            self.claims[""].is_slow = True
            changed.add("")
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
        changed.add(above)


def _in_order(module: nn.Module, inputs: tuple, keywords: dict[str, Any]) -> tuple:
    """All that a module was called with in the order of its ``forward``, keywords among them."""
    if not keywords:
        return inputs
    bound = inspect.signature(module.forward).bind(*inputs, **keywords)
    bound.apply_defaults()
    return bound.args


def _autocast_now(device: str) -> dict[str, Any]:
    """Mixed precision as it is in force, for a module that is called once more."""
    dtype = torch.get_autocast_dtype(device)
    enabled = torch.is_autocast_enabled(device)
    return {"device_type": device, "dtype": dtype, "enabled": enabled, "cache_enabled": False}


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

    def __init__(self, claim: Claim, reason: str, in_transform: bool = False):
        super().__init__(reason)
        self.claim, self.reason, self.in_transform = claim, reason, in_transform
