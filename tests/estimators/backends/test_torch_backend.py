"""Anybody's PyTorch module: measured as autograd would, left as it was, refused where it cannot be factored."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import sgdphases
from sgdphases.estimators.backends.torch.backend import TorchBackend
from sgdphases.estimators.errors import InputError, UsageError

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 2, 3)), RNG.integers(0, 4, 12)


class Branched(nn.Module):
    """Two paths, an activation that overwrites its input, and layers used out of the order they were made in."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(5, 4)
        self.left, self.right = nn.Linear(6, 5), nn.Linear(6, 5, bias=False)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = x.flatten(1)
        return self.last(self.act(self.left(x)) * torch.tanh(self.right(x)))


def modules():
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.GELU(), nn.Linear(5, 4))
    frozen[1].weight.requires_grad_(False)
    frozen[3].requires_grad_(False)
    return {
        "in place": nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 4)),
        "branched": Branched(),
        "frozen": frozen,
        "no bias": nn.Sequential(nn.Flatten(), nn.Linear(6, 4, bias=False)),
    }


@pytest.mark.parametrize("name", modules())
def test_factored_gradients_are_autograds(name):
    module = modules()[name].double()
    backend = TorchBackend(module, X, Y)
    parameters = [p for p in module.parameters() if p.requires_grad]
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    rows = []
    for i in range(len(x)):
        loss = nn.functional.cross_entropy(module(x[i : i + 1]), y[i : i + 1])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).numpy())
    table, everyone = np.array(rows), np.arange(len(X))
    found = backend.gradient_sums(everyone)
    np.testing.assert_allclose(found.gradient_sum, table.sum(axis=0), atol=1e-12)
    np.testing.assert_allclose(found.squared_norm, (table**2).sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(backend.projections(everyone, table[:2]), table @ table[:2].T, atol=1e-12)
    np.testing.assert_allclose(backend.gram(everyone, everyone), table @ table.T, atol=1e-12)
    assert backend.n_parameters == table.shape[1]


def test_measuring_leaves_the_module_as_it_was():
    module = modules()["branched"]
    module.eval()
    module.left.weight.grad = torch.ones_like(module.left.weight)
    before, rng_before = copy.deepcopy(module.state_dict()), torch.random.get_rng_state()
    sgdphases.measure(module, X, Y, batch_size=4, device="cpu")
    sgdphases.measure(module, X, Y, batch_size=4)
    assert not module.training and torch.equal(module.left.weight.grad, torch.ones_like(module.left.weight))
    assert module.right.weight.grad is None and not module.left._forward_hooks
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), rng_before)


def test_a_module_is_measured_at_its_present_weights_and_trained_in_place():
    module = modules()["in place"]
    backend = TorchBackend(module, X, Y)
    first = backend.scores(np.arange(12)).loss.mean()
    for _ in range(20):
        backend.train(np.arange(12), 4, 0.5)
    assert backend.scores(np.arange(12)).loss.mean() < first
    np.testing.assert_array_equal(backend.weights, nn.utils.parameters_to_vector(module.parameters()).detach().numpy())


def test_a_model_without_parameters_is_refused():
    with pytest.raises(UsageError, match="nothing to measure"):
        sgdphases.measure(nn.Sequential(nn.Flatten()), X, Y, batch_size=4)


def test_shapes_and_devices_are_checked():
    module = modules()["in place"]
    with pytest.raises(InputError, match="does not take samples of shape"):
        sgdphases.measure(module, np.ones((3, 7)), np.zeros(3, int), batch_size=1)
    with pytest.raises(InputError, match=r"shape \(samples, outputs\)"):
        sgdphases.measure(nn.Linear(3, 4), X, Y, batch_size=1)
    with pytest.raises(UsageError, match="device = 'nowhere'"):
        sgdphases.measure(module, X, Y, batch_size=1, device="nowhere")
    with pytest.raises(UsageError, match="int32"):
        sgdphases.measure(module, X, Y, batch_size=1, dtype="int32")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_measures_what_the_cpu_does():
    module = modules()["branched"].double()
    here = sgdphases.measure(module, X, Y, batch_size=4).scalars()
    there = sgdphases.measure(module, X, Y, batch_size=4, device="cuda").scalars()
    assert there == pytest.approx(here, rel=1e-9, abs=1e-9, nan_ok=True)
