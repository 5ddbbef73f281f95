"""Any network: every answer of the torch backend against autograd, sample by sample, and against `torch.func`."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, vmap

import sgdphases
from sgdphases.estimators.backend import to_numpy
from sgdphases.estimators.backends.numpy_backend import NumpyBackend
from sgdphases.estimators.backends.registry import backend_class
from sgdphases.estimators.backends.torch.backend import TorchBackend
from sgdphases.estimators.errors import UsageError

N = 6


def gradients_by_torch_func(module, x, y):
    """Per-sample gradients of the cross-entropy in rows, shape (N, P), by vmap over grad: the second implementation."""
    parameters = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}

    def loss(parameters, x, y):
        return nn.functional.cross_entropy(functional_call(module, parameters, (x.unsqueeze(0),)), y.unsqueeze(0))

    rows = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    return torch.cat([rows[name].flatten(1) for name in parameters], dim=1).numpy()


def gradients_by_autograd(module, x, y):
    """The same, one sample after the other, for modules that `torch.func` does not take."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    rows = []
    for i in range(len(x)):
        loss = nn.functional.cross_entropy(module(x[i : i + 1]), y[i : i + 1])
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        own = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        rows.append(torch.cat([g.flatten() for g in own]).numpy())
    return np.array(rows)


def assert_answers(module, x, y, table, rtol=1e-9, **options):
    backend = TorchBackend(module, x.numpy(), y.numpy(), **options)
    rng, everyone = np.random.default_rng(0), np.array([*range(len(x)), 1, 1])
    rows = table[everyone]
    scale = max(1e-3, np.abs(table).max())
    found = backend.gradient_sums(everyone)

    def close(a, b, unit):
        np.testing.assert_allclose(to_numpy(a), b, rtol=0, atol=rtol * unit * max(1, table.shape[1] ** 0.5))

    close(found.gradient_sum, rows.sum(axis=0), scale)
    close(found.squared_norm, (rows**2).sum(axis=1), max(1, (rows**2).sum(axis=1).max()))
    directions, coefficients = rng.normal(size=(3, rows.shape[1])), rng.normal(size=(len(everyone), 2))
    close(backend.projections(everyone, directions), rows @ directions.T, max(1, np.abs(rows @ directions.T).max()))
    close(backend.weighted_sums(everyone, coefficients), coefficients.T @ rows, scale)
    others = np.array([3, 0])
    close(backend.gram(everyone, others), rows @ table[others].T, max(1, (rows**2).sum(axis=1).max()))
    close(backend.gram(everyone, everyone), rows @ rows.T, max(1, (rows**2).sum(axis=1).max()))
    return backend


@st.composite
def networks(draw):
    """A random network of convolutions, norms, activations and pooling on small images, and its input shape."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    channels, size = draw(st.sampled_from([2, 4])), draw(st.integers(5, 8))
    flat = draw(st.booleans())
    shape, layers = (channels, size) if flat else (channels, size, size), []
    conv, pool = (nn.Conv1d, nn.AvgPool1d) if flat else (nn.Conv2d, nn.MaxPool2d)
    probe = torch.zeros(2, *shape)
    for _ in range(draw(st.integers(1, 3))):
        now = probe.shape[1]
        kinds = ["conv", "group", "layer", "instance", "pool", "prelu"]
        kind = draw(st.sampled_from(kinds if probe.shape[-1] > 2 else ["conv", "layer", "prelu"]))
        if kind == "conv":
            groups = draw(st.sampled_from([g for g in (1, 2) if now % g == 0]))
            kernel = draw(st.integers(1, min(3, probe.shape[-1])))
            dilation = draw(st.integers(1, 2)) if (kernel - 1) * 2 + 1 <= probe.shape[-1] else 1
            layer = conv(
                now,
                groups * draw(st.integers(1, 2)),
                kernel,
                stride=draw(st.integers(1, 2)),
                padding=draw(st.integers(0, 2)),
                dilation=dilation,
                groups=groups,
                bias=draw(st.booleans()),
                padding_mode=draw(st.sampled_from(["zeros", "circular", "replicate"])),
            )
        elif kind == "group":
            layer = nn.GroupNorm(draw(st.sampled_from([g for g in (1, 2) if now % g == 0])), now)
        elif kind == "layer":
            layer = nn.LayerNorm(probe.shape[draw(st.integers(1, probe.ndim - 1)) :])
        elif kind == "instance":
            layer = (nn.InstanceNorm1d if flat else nn.InstanceNorm2d)(now, affine=draw(st.booleans()))
        elif kind == "pool":
            layer = pool(2)
        else:
            layer = nn.PReLU()
        try:
            probe = layer(probe)
        except (RuntimeError, ValueError):  # circular padding wider than the image, or one value to normalise
            continue
        layers += [layer, draw(st.sampled_from([nn.Tanh(), nn.ReLU(inplace=True), nn.GELU()]))]
        if 0 in probe.shape:
            layers, probe = [], torch.zeros(2, *shape)
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(probe[0].numel(), 3, bias=draw(st.booleans())))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return model.to(dtype), torch.randn(N, *shape, dtype=dtype), torch.randint(0, 3, (N,)), dtype


@settings(max_examples=60)
@given(networks())
def test_random_networks_against_torch_func(problem):
    module, x, y, dtype = problem
    rtol = 1e-10 if dtype == torch.float64 else 2e-5
    assert_answers(module, x, y, gradients_by_torch_func(module, x, y), rtol)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.again, self.norm = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, padding="same"), nn.GroupNorm(2, 4)
        self.leave = nn.Linear(4, 3)

    def forward(self, x):
        x = self.enter(x)
        for _ in range(3):  # the same module three times
            x = x + torch.relu(self.norm(self.again(x)))
        return self.leave(x.mean(dim=(2, 3)))


class TiedLanguageModel(nn.Module):
    """Token embeddings that also read out: one weight in an Embedding and in a Linear layer."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(7, 5, padding_idx=0), nn.Linear(5, 5), nn.Linear(5, 7, bias=False)
        self.norm = nn.LayerNorm(5)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        return self.out(self.norm(torch.tanh(self.mix(self.embed(tokens)))).mean(dim=1))


class OutsideItsLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.inner(x) + x @ self.inner.weight)


class TokenFirst(nn.Module):
    """Samples along the second axis inside, and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.shift, self.inner, self.out = nn.Parameter(torch.randn(4)), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = (x + self.shift).transpose(0, 1)
        return self.out(torch.tanh(self.inner(x)).sum(dim=0))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend, self.out = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.attend(x, x, x, need_weights=False)[0].mean(dim=1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.core, self.out = nn.GRUCell(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        state = x.new_zeros(len(x), 5)
        for step in range(x.shape[1]):
            state = self.core(x[:, step], state)
        return self.out(state)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.out, self.idle = nn.Linear(4, 3), nn.Linear(2, 2)

    def forward(self, x):
        return self.out(x)


def awkward():
    torch.manual_seed(0)
    tokens = torch.randint(0, 7, (N, 4))
    return {
        "residual, reused": (Residual(), torch.randn(N, 2, 5, 5)),
        "embedding, tied": (TiedLanguageModel(), tokens),
        "weight used outside its layer": (OutsideItsLayer(), torch.randn(N, 4)),
        "samples along the second axis": (TokenFirst(), torch.randn(N, 2, 4)),
        "attention": (Attention(), torch.randn(N, 3, 4)),
        "recurrent": (Recurrent(), torch.randn(N, 3, 4)),
        "unused layer": (Unused(), torch.randn(N, 4)),
        "bare linear": (nn.Linear(4, 3), torch.randn(N, 4)),
        "transposed convolution": (
            nn.Sequential(nn.ConvTranspose1d(2, 3, 2), nn.Flatten(), nn.Linear(9, 3)),
            torch.randn(N, 2, 2),
        ),
        "rms norm, tokens": (
            nn.Sequential(nn.Linear(4, 4), nn.RMSNorm(4), nn.Flatten(), nn.Linear(12, 3)),
            torch.randn(N, 3, 4),
        ),
    }


@pytest.mark.parametrize("name", awkward())
def test_awkward_modules_against_autograd(name):
    module, x = awkward()[name]
    module, y = module.double(), torch.randint(0, 3, (N,))
    x = x.double() if x.is_floating_point() else x
    assert_answers(module, x, y, gradients_by_autograd(module, x, y))


def test_what_has_no_closed_form_is_named_once(caplog):
    module, x = awkward()["attention"]
    module.attend = nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=True)
    with caplog.at_level(logging.WARNING, logger="sgdphases"):
        backend = TorchBackend(module, x.numpy(), np.zeros(N, int))
        backend.gradient_sums(np.arange(N))
    (line,) = caplog.messages
    assert line == "per-sample gradients by torch.func, which is slower: attend (MultiheadAttention)"
    caplog.clear()
    TorchBackend(awkward()["residual, reused"][0], awkward()["residual, reused"][1].numpy(), np.zeros(N, int))
    assert not caplog.messages


@pytest.mark.parametrize("parameters", ["layers.1.weight", ["layers.0.*", "layers.2.bias"], None])
@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
def test_a_chosen_subset_is_the_slice_of_the_whole(backend, parameters):
    rng = np.random.default_rng(0)
    model = sgdphases.initial_mlp((5, 4, 4, 3), "tanh", rng)
    x, y = rng.normal(size=(9, 5)), rng.integers(0, 3, 9)
    kept = {"layers.1.weight": np.r_[24:40], "None": np.r_[0:59]}.get(str(parameters), np.r_[0:20, 20:24, 56:59])
    table = NumpyBackend(model, x, y).sample_gradients(np.arange(9))[:, kept]
    chosen = backend_class(backend)(model, x, y, dtype="float64", parameters=parameters)
    assert chosen.n_parameters == table.shape[1] and len(chosen.weights) == model.n_parameters
    everyone = np.arange(9)
    found = chosen.gradient_sums(everyone)
    np.testing.assert_allclose(to_numpy(found.gradient_sum), table.sum(axis=0), atol=1e-12)
    np.testing.assert_allclose(found.squared_norm, (table**2).sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(chosen.projections(everyone, table[:2]), table @ table[:2].T, atol=1e-12)
    np.testing.assert_allclose(chosen.gram(everyone, everyone), table @ table.T, atol=1e-12)
    np.testing.assert_allclose(chosen.weighted_sums(everyone, table[:, :2]), table[:, :2].T @ table, atol=1e-12)
    whole = backend_class(backend)(model, x, y, dtype="float64")
    for trained in (chosen, whole):
        trained.train(everyone, 3, 0.1)
    np.testing.assert_allclose(chosen.weights, whole.weights, atol=1e-12)


def test_an_unknown_parameter_is_named():
    model = sgdphases.initial_mlp((5, 4, 3), "tanh", np.random.default_rng(0))
    with pytest.raises(UsageError, match=r"layers\.7.*layers\.0\.weight"):
        sgdphases.measure(model, np.ones((3, 5)), np.zeros(3, int), batch_size=1, parameters="layers.7.weight")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_models_sum_in_double(dtype):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    x, y = torch.randn(N, 2, 5, 5), torch.randint(0, 3, (N,))
    table = gradients_by_torch_func(module.double(), x.double(), y)
    backend = TorchBackend(module, x.numpy(), y.numpy(), dtype=dtype)
    found = backend.gradient_sums(np.arange(N))
    assert found.squared_norm.dtype == np.float64 and backend.weights.dtype == np.float32
    np.testing.assert_allclose(found.squared_norm, (table**2).sum(axis=1), rtol=0.05)
    steep = sgdphases.measure(module, 1000 * x, y, batch_size=2, dtype=dtype)  # squares beyond float16's range
    assert np.isfinite(steep.activity) and steep.activity > 1e5


def test_autocast_measures_a_mixed_precision_pass():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 20), nn.Tanh(), nn.Linear(20, 3))
    x, y = torch.randn(N, 5), torch.randint(0, 3, (N,))
    full, mixed = (sgdphases.measure(module, x, y, batch_size=2, autocast=kind) for kind in (None, "bfloat16"))
    assert mixed.activity == pytest.approx(full.activity, rel=0.05) and mixed.activity != full.activity


def test_batch_norm_is_refused_frozen_or_sampled():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    x, y = torch.randn(N, 5, dtype=torch.float64), torch.randint(0, 3, (N,))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(UsageError, match=r"1 \(BatchNorm1d\).*frozen.*sampled"):
        sgdphases.measure(module, x, y, batch_size=2, alignment_batches=0)
    sgdphases.measure(module, x, y, batch_size=2, batch_norm="frozen")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(m.training for m in module.modules())
    frozen = TorchBackend(module, x.numpy(), y.numpy(), batch_norm="frozen")
    table = gradients_by_autograd(module.eval(), x, y)
    np.testing.assert_allclose(frozen.gradient_sums(np.arange(N)).squared_norm, (table**2).sum(axis=1), atol=1e-12)
    module.train()
    backend = TorchBackend(module, x.numpy(), y.numpy())
    batch = np.array([4, 0, 2])
    module[3].eval()
    loss = nn.functional.cross_entropy(module(x[batch]), y[batch])
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))]).numpy()
    module[3].train()
    found = backend.weighted_sums(batch, np.full((3, 1), 1 / 3))[0]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_coupling_without_a_batch_norm_is_noticed():
    class Coupled(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(5, 3)

        def forward(self, x):
            return self.out(x - x.mean(dim=0))

    with pytest.raises(UsageError, match="changes with the others in its batch"):
        sgdphases.measure(Coupled(), torch.randn(N, 5), torch.zeros(N, dtype=torch.int64), batch_size=2)


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout1d])
def test_dropout_is_off_or_one_mask_for_all(kind):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(2, 8, 1), kind(0.5), nn.Flatten(), nn.Linear(24, 3)).double()
    x, y = torch.randn(N, 2, 3, dtype=torch.float64), torch.randint(0, 3, (N,))
    assert_answers(module, x, y, gradients_by_autograd(module.eval(), x, y))
    module.train()
    masked = TorchBackend(module, x.numpy(), y.numpy(), dropout="mask")
    one, two = (masked.gradient_sums(np.arange(N)).squared_norm for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(one, TorchBackend(module, x.numpy(), y.numpy()).gradient_sums(np.arange(N)).squared_norm)
    assert module[1].training and not module[1]._forward_hooks


def test_random_layers_that_cannot_be_fixed_are_refused():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(5, 3)

        def forward(self, x):
            return self.out(x + torch.randn_like(x))

    with pytest.raises(UsageError, match="random layers"):
        sgdphases.measure(Noisy(), torch.randn(N, 5), torch.zeros(N, dtype=torch.int64), batch_size=2)


@pytest.mark.parametrize("name", ["tanh", "conv", "tied"])
def test_hessian_products_against_the_dense_hessian(name):
    torch.manual_seed(0)
    module, x = {
        "tanh": (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randn(N, 3)),
        "conv": (nn.Sequential(nn.Conv1d(2, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3)), torch.randn(N, 2, 3)),
        "tied": awkward()["embedding, tied"],
    }[name]
    module, y = module.double(), torch.randint(0, 3, (N,))
    x = x.double() if x.is_floating_point() else x
    parameters = dict(module.named_parameters())
    shapes = {key: (p.shape, p.numel()) for key, p in parameters.items()}

    def loss(flat):
        parts = dict(zip(shapes, flat.split([n for _, n in shapes.values()]), strict=True))
        named = {key: parts[key].view(shapes[key][0]) for key in shapes}
        return nn.functional.cross_entropy(functional_call(module, named, (x,)), y, reduction="sum")

    flat = torch.cat([p.detach().flatten() for p in parameters.values()])
    dense = torch.autograd.functional.hessian(loss, flat).numpy()
    vectors = np.random.default_rng(0).normal(size=(3, len(flat)))
    backend = TorchBackend(module, x.numpy(), y.numpy())
    np.testing.assert_allclose(backend.hessian_products(np.arange(N), vectors), vectors @ dense, atol=1e-10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", ["residual, reused", "embedding, tied", "attention"])
def test_cuda_measures_what_the_cpu_does(name):
    module, x = awkward()[name]
    module, y = module.double(), torch.randint(0, 3, (N,))
    x = x.double() if x.is_floating_point() else x
    here, there = (
        sgdphases.measure(module, x, y, batch_size=2, wrong=np.arange(N) < 3, device=device).scalars()
        for device in ("cpu", "cuda")
    )
    assert there == pytest.approx(here, rel=1e-8, abs=1e-10, nan_ok=True)
