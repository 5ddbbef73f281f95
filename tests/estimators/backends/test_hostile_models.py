"""Models, losses and inputs that would give a wrong number in silence: right, or refused."""

import copy

import numpy as np
import pytest
import torch
from small_models import D, K, N, activity, data, gradients, network
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import sgdphases
from sgdphases.estimators.backends.torch.backend import TorchBackend
from sgdphases.estimators.backends.torch.reference import AutogradReference
from sgdphases.estimators.errors import InputError, UsageError

# --- losses that are no mean over samples -----------------------------------------------------------------------------

WEIGHT = torch.tensor([1.0, 5.0, 0.1])


def contrastive(outputs, targets):
    similar = outputs @ outputs.T
    return (similar * (targets[:, None] == targets)).mean()


LOSSES = {
    "class weights": nn.CrossEntropyLoss(weight=WEIGHT),
    "class weights, as a function": lambda out, y: F.cross_entropy(out, y, weight=WEIGHT),
    "a sum": nn.CrossEntropyLoss(reduction="sum"),
    "a sum, as a function": lambda out, y: F.cross_entropy(out, y, reduction="sum"),
    "ignored labels": nn.CrossEntropyLoss(ignore_index=2),
    "terms between samples": contrastive,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ordered", [False, True], ids=["shuffled", "sorted by class"])
def test_a_loss_that_is_no_mean_over_samples_is_refused(name, ordered):
    x, y = data()
    if ordered:
        order = torch.argsort(y)
        x, y = x[order], y[order]
    with pytest.raises(UsageError, match="mean over samples"):
        sgdphases.measure(network(), x, y, batch_size=10, loss=LOSSES[name])


def test_labels_of_minus_100_are_refused():
    x, y = data()
    y[-5:] = -100
    with pytest.raises(UsageError, match="mean"):
        sgdphases.measure(network(), x, y, batch_size=10, loss=nn.CrossEntropyLoss())
    with pytest.raises(InputError, match="no class"):
        sgdphases.measure(network(), x, y, batch_size=10)


def test_a_squared_loss_that_broadcasts_over_samples_is_refused():
    x, _ = data()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, 1))
    with pytest.raises(UsageError, match="broadcast"):
        sgdphases.measure(model, x, torch.randn(N), batch_size=10, loss=nn.MSELoss())
    right = torch.randn(N, 1)
    found = sgdphases.measure(model, x, right, batch_size=10, loss=nn.MSELoss(), alignment_batches=0)
    assert found.activity == pytest.approx(activity(gradients(model, x, right, F.mse_loss), 10), rel=1e-4)


def test_padding_that_begins_late_is_refused():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(12, 6), nn.Linear(6, 12))
    x = torch.randint(1, 12, (N, 7))
    y = torch.randint(1, 12, (N, 7))
    y[N // 2 :, 3:] = 0

    def loss(out, target):
        return F.cross_entropy(out.flatten(0, 1), target.flatten(), ignore_index=0)

    with pytest.raises(UsageError, match="padding"):
        sgdphases.measure(model, x, y, batch_size=10, loss=loss)


def test_weights_per_sample_are_measured_as_they_train():
    x, y = data()

    def weighted(out, target):
        return (WEIGHT[target] * F.cross_entropy(out, target, reduction="none")).mean()

    expected = activity(gradients(network(), x, y, weighted), 10)
    found = sgdphases.measure(network(), x, y, batch_size=10, loss=weighted, alignment_batches=0)
    assert found.activity == pytest.approx(expected, rel=1e-4)


# --- rules that would pass a check where gradients vanish -------------------------------------------------------------


class OutsideItsLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(D, 8), nn.Linear(8, K)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x))) + (x @ self.first.weight.T)[:, :K]


class LowRank(nn.Module):
    """A linear layer with a low-rank adapter by plain matrix products, whose second factor starts at zero."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(D, 8)
        self.base.requires_grad_(False)
        self.a, self.b = nn.Linear(D, 2, bias=False), nn.Linear(2, 8, bias=False)
        nn.init.zeros_(self.b.weight)
        self.head = nn.Linear(8, K)

    def forward(self, x):
        return self.head(torch.tanh(self.base(x) + F.linear(F.linear(x, self.a.weight), self.b.weight)))


def zero_head(model):
    with torch.no_grad():
        for parameter in list(model.modules())[-1].parameters():
            parameter.zero_()
    return model


def hooked(factor, zero):
    model = network()
    model[0].register_forward_hook(lambda module, inputs, output: factor * output)
    return zero_head(model) if zero else model


def transformer():
    layer = nn.TransformerEncoderLayer(D, 1, 8, 0.0, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (1, D)), layer, nn.Flatten(), nn.Linear(D, K))


def train(module, x, y, steps=60):
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(module(x.clone()), y).backward()
        optimizer.step()


@pytest.mark.parametrize(
    "make",
    [
        lambda: hooked(2, zero=False),
        lambda: hooked(2, zero=True),
        lambda: zero_head(OutsideItsLayer()),
        lambda: LowRank(),
        lambda: zero_head(transformer()),
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(D, 8)), nn.Tanh(), nn.Linear(8, K)),
        lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(D, 8)), nn.Tanh(), nn.Linear(8, K)),
    ],
    ids=[
        "hook",
        "hook, zero head",
        "outside its layer, zero head",
        "adapter",
        "transformer, zero head",
        "weight norm",
        "orthogonal",
    ],
)
def test_rules_are_checked_where_gradients_are_alive(make):
    torch.manual_seed(0)
    module = make()
    x, y = data()
    backend = TorchBackend(module, x.numpy(), y.numpy())
    for _ in range(2):  # at the start, and after training moved the zeros
        expected = activity(gradients(module, x, y), 10)
        found = sgdphases.exact(backend, batch_size=10)
        assert found.activity == pytest.approx(expected, rel=1e-4)
        train(module, x, y)


def test_the_check_leaves_every_bit_of_the_model():
    module = network()
    before = copy.deepcopy(module.state_dict())
    state = torch.get_rng_state()
    TorchBackend(module, *(values.numpy() for values in data()))
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_a_hinge_loss_without_gradient_at_first_does_not_hide_a_weight_used_twice():
    def hinge(outputs, targets):
        return F.multi_margin_loss(outputs, targets, margin=0.05)

    x, y = data()
    module = OutsideItsLayer()
    found = sgdphases.measure(module, x, y, batch_size=10, loss=hinge, alignment_batches=0)
    assert found.activity == pytest.approx(activity(gradients(module, x, y, hinge), 10), rel=1e-4)


def test_half_precision_does_not_widen_the_check():
    model = network()
    model[0].register_forward_hook(lambda module, inputs, output: 1.05 * output)
    x, y = data()
    expected = activity(gradients(model, x, y), 10)
    found = sgdphases.measure(model, x, y, batch_size=10, autocast="bfloat16", alignment_batches=0)
    assert found.activity == pytest.approx(expected, rel=0.02)


# --- samples that are coupled -----------------------------------------------------------------------------------------


class HandWrittenBatchNorm(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.first, self.second = nn.Linear(D, 8), nn.Linear(8, K)
        with torch.no_grad():
            self.second.weight.mul_(scale)
            self.second.bias.mul_(scale)

    def forward(self, x):
        z = self.first(x)
        z = (z - z.mean(dim=0)) / (z.var(dim=0, unbiased=False) + 1e-5).sqrt()
        return self.second(torch.tanh(z))


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("alike", [False, True])
def test_coupling_is_seen_beyond_the_first_two_samples(scale, alike):
    x, y = data()
    if alike:
        x[1], y[1] = x[0], y[0]
    with pytest.raises(UsageError, match=r"gradient of its own|per-sample gradient"):
        sgdphases.measure(HandWrittenBatchNorm(scale), x, y, batch_size=10)


def test_an_embedding_scaled_by_frequency_is_refused():
    model = nn.Sequential(nn.Embedding(9, 4, scale_grad_by_freq=True), nn.Flatten(), nn.Linear(12, K))
    with pytest.raises(UsageError, match="scale_grad_by_freq"):
        sgdphases.measure(model, torch.randint(0, 9, (N, 3)), data()[1], batch_size=10)


# --- inputs -----------------------------------------------------------------------------------------------------------


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x):
        x *= 0.5
        return self.body(x.add_(1.0))


def test_a_forward_pass_that_works_in_place_changes_neither_data_nor_result():
    x, y = (values.numpy() for values in data())
    before, module = x.copy(), InPlace()
    backend = TorchBackend(module, x, y)
    found = [sgdphases.exact(backend, batch_size=10).activity for _ in range(3)]
    assert found[0] == found[1] == found[2]
    assert found[0] == pytest.approx(activity(gradients(module, *data()), 10), rel=1e-4)
    np.testing.assert_array_equal(x, before)


class Hashed(nn.Module):
    """Integers without an `nn.Embedding`: a table looked up by a hash, which rounding to float32 would change."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Parameter(torch.randn(7, 4)), nn.Linear(8, K)

    def forward(self, x):
        return self.head(F.embedding(x % 7, self.table).flatten(1))


def test_integers_stay_integers():
    torch.manual_seed(0)
    module, y = Hashed(), data()[1]
    x = torch.randint(2**24, 2**30, (N, 2))
    expected = activity(gradients(module, x, y), 10)
    assert sgdphases.measure(module, x, y, batch_size=10, alignment_batches=0).activity == pytest.approx(
        expected, rel=1e-4
    )


def test_integers_become_numbers_where_the_model_takes_no_integers():
    x, y = data()
    whole = (10 * x).round().long()
    assert_measured_floats = activity(gradients(network(), whole.float(), y), 10)
    found = sgdphases.measure(network(), whole, y, batch_size=10, alignment_batches=0)
    assert found.activity == pytest.approx(assert_measured_floats, rel=1e-4)


def test_an_embedding_with_a_norm_limit_keeps_its_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4, max_norm=0.5), nn.Flatten(), nn.Linear(12, K))
    before = model[0].weight.detach().clone()
    sgdphases.measure(model, torch.randint(0, 9, (N, 3)), data()[1], batch_size=10)
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array([["a", "b"]] * N), "dtype"),
        (np.ones((N, D), dtype=complex), "complex128"),
        (np.array([{}] * N, dtype=object), "object"),
        ([[1.0, 2.0], [1.0]], "same shape"),
    ],
    ids=["text", "complex", "objects", "ragged"],
)
def test_inputs_that_are_no_real_numbers_are_refused(x, message):
    with pytest.raises(InputError, match=message):
        sgdphases.measure(network(), x, np.zeros(len(x), dtype=int), batch_size=1)


def test_lazy_scripted_and_complex_models_are_refused():
    x, y = data()
    with pytest.raises(UsageError, match="lazy"):
        sgdphases.measure(nn.Sequential(nn.LazyLinear(3)), x, y, batch_size=10)
    with pytest.raises(UsageError, match="scripted"):
        sgdphases.measure(torch.jit.script(network()), x, y, batch_size=10)
    with pytest.raises(UsageError, match="complex"):
        sgdphases.measure(network().to(torch.complex64), x, y, batch_size=10)


def test_measuring_works_without_gradients_switched_on():
    x, y = data()
    expected = sgdphases.measure(network(), x, y, batch_size=10).activity
    with torch.no_grad():
        assert sgdphases.measure(network(), x, y, batch_size=10).activity == expected


# --- numbers that are not finite --------------------------------------------------------------------------------------


def test_diverged_weights_give_nan_and_huge_ones_their_size():
    x, y = data()
    model = network()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    found = sgdphases.measure(model, x, y, batch_size=10, alignment_batches=0)
    assert np.isnan(found.total_variance) and np.isnan(found.activity)
    large = network()
    with torch.no_grad():
        large[2].weight.mul_(1e30)
    found = sgdphases.measure(large, x, y, batch_size=10, alignment_batches=0)
    expected = gradients(large, x, y)
    spread = (expected**2).sum(axis=1).mean() - (expected.mean(axis=0) ** 2).sum()
    assert found.gradient_variance == pytest.approx(spread, rel=1e-3) and spread > 1e55


# --- models that change afterwards ------------------------------------------------------------------------------------


def test_a_model_changed_after_the_backend_was_made_is_refused():
    x, y = (values.numpy() for values in data())
    for change in (
        lambda model: model.__setitem__(2, nn.Linear(8, K)),
        lambda model: model[0].requires_grad_(False),
        lambda model: model.append(nn.Linear(K, K)),
    ):
        model = network()
        backend = TorchBackend(model, x, y)
        change(model)
        with pytest.raises(UsageError, match="has changed"):
            sgdphases.exact(backend, batch_size=10)


class RoundsWithItsBatch(nn.Module):
    """Two units at a kink, which in float32 are on in a batch and off alone, as some in large networks of ReLUs are."""

    def forward(self, x):
        kinked = x[:, :2] - (x[:, :2].detach() + 1e-9) + (len(x) > 1) * torch.finfo(x.dtype).eps
        return torch.relu(torch.cat([kinked, x[:, 2:]], dim=1))


def test_what_only_rounding_couples_is_asked_in_float64_and_measured():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), RoundsWithItsBatch(), nn.Linear(6, 2))
    x, y = torch.randn(20, 3).numpy(), torch.randint(0, 2, (20,)).numpy()
    backend = TorchBackend(model, x, y)
    assert sgdphases.exact(backend, batch_size=5).directed_activity > 0
    assert all(claim.rule is not None for claim in backend._capture.claims.values())
    one, other = backend.gradient_sums(np.arange(20)), AutogradReference(model, x, y).gradient_sums(np.arange(20))
    assert not np.allclose(one.squared_norm, other.squared_norm, rtol=1e-3)  # so the kink is there


def test_what_is_coupled_beyond_rounding_is_refused_after_the_second_question():
    class Coupled(nn.Module):
        def forward(self, x):
            return x + 0.01 * x.mean(dim=0)

    model = nn.Sequential(nn.Linear(3, 6), Coupled(), nn.Linear(6, 2))
    with pytest.raises(UsageError, match="with the others in its batch"):
        TorchBackend(model, np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2)
