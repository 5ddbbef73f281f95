"""Convolutional and residual networks: small, seeded, measured and resumed like any other."""

import numpy as np
import pytest
import torch
from runs import finish, start
from torch.nn import functional as F
from two_lengths import slow

from sgdphases.estimators.backend import chunks
from sgdphases.estimators.backends.torch.backend import TorchBackend
from sgdphases.estimators.ensemble.exact import exact
from sgdphases.estimators.errors import UsageError
from sgdphases.sim.networks.images import image_network
from sgdphases.sim.run.folder import RunFolder, start_folder
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.run.training import advance, prepare
from sgdphases.sim.run.verification import verify_backends

KINDS = ("cnn", "resnet")
SMALL = dict(
    dataset="digits", train_size=60, test_size=40, noise_fraction=0.5, batch_size=20, epochs=4, checkpoints=6,
    alignment_batches=4, seed=5, learning_rate=0.05,
)  # fmt: skip


def network(kind, shape=(3, 8, 8), seed=0, activation="relu"):
    return image_network(kind, shape, 4, activation, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 28), (3, 32, 32), (1, 5, 7), (1, 1, 1), (8, 8)])
def test_images_of_any_size_are_answered_by_one_number_a_class(kind, shape):
    made = network(kind, shape).float()
    assert made(torch.rand(2, *shape)).shape == (2, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_fixed_by_the_generator_and_leaves_those_of_pytorch_alone(kind):
    before = torch.get_rng_state()
    flat = [torch.nn.utils.parameters_to_vector(network(kind, seed=seed).parameters()) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(flat[0], flat[1]) and not torch.equal(flat[0], flat[2])
    torch.manual_seed(99)
    assert torch.equal(torch.nn.utils.parameters_to_vector(network(kind).parameters()), flat[0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_drawn_within_its_reach(kind):
    """Uniform on +-1/sqrt(fan_in): the largest of many lies just below, and none above."""
    for module in network(kind, (3, 32, 32)).modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            reach = module.weight[0].numel() ** -0.5
            assert 0.95 * reach < module.weight.abs().max() <= reach
            assert module.bias.abs().max() <= reach


@pytest.mark.parametrize("kind", KINDS)
def test_the_activation_is_the_one_asked_for(kind):
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    answers = [network(kind, activation=name)(x) for name in ("relu", "tanh", "erf")]
    assert not any(torch.allclose(answers[a], answers[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("kind", KINDS)
def test_closed_forms_agree_with_autograd_sample_by_sample(kind):
    """D and sigma_lambda^2 of eqs 8 and 9 from explicit per-sample gradients; without replacement, N = 9, B = 4."""
    rng = np.random.default_rng(1)
    model, x, y = network(kind), rng.normal(size=(9, 3, 8, 8)), rng.integers(0, 4, 9)
    gradients = []
    for one, label in zip(torch.from_numpy(x), torch.from_numpy(y), strict=True):
        loss = F.cross_entropy(model(one[None]), label[None])
        found = torch.autograd.grad(loss, list(model.parameters()))
        gradients.append(torch.cat([g.flatten() for g in found]).numpy())
    rows = np.stack(gradients)
    mean = rows.mean(axis=0)
    factor = (9 - 4) / (4 * (9 - 1))
    found = exact(TorchBackend(model, x, y), batch_size=4)
    assert found.directed_activity == pytest.approx(mean @ mean, rel=1e-9)
    assert found.total_variance == pytest.approx(factor * ((rows - mean) ** 2).sum() / 9, rel=1e-9)
    assert found.projection_variance == pytest.approx(factor * (rows @ mean).var() / (mean @ mean) ** 2, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_no_sample_depends_on_the_others(kind):
    """GroupNorm, not BatchNorm: the loss of a sample is the same whoever is asked with it."""
    rng = np.random.default_rng(2)
    backend = TorchBackend(network(kind), rng.normal(size=(12, 3, 8, 8)), rng.integers(0, 4, 12))
    together = backend.scores(np.arange(12)).loss
    alone = np.concatenate([backend.scores(piece).loss for piece in chunks(np.arange(12), 1)])
    np.testing.assert_allclose(together, alone, rtol=1e-9)


@pytest.mark.parametrize("kind", ["cnn", slow("resnet")])
def test_a_run_learns_and_ends_in_the_same_bits_when_resumed(tmp_path, kind):
    changes = dict(network=kind, spectra=3, spectrum_parameters=("output.*",), sample_losses=True)
    whole, checkpoint = finish(*start(tmp_path / "whole", SMALL, **changes))
    assert whole["loss"][-1] < whole["loss"][0]
    experiment, folder = start(tmp_path / "cut", SMALL, **changes)
    begun = advance(experiment, folder)
    for _ in range(5):
        next(begun)
    begun.close()
    again, end = finish(prepare(folder.read_settings()), folder, folder.read_checkpoint())
    assert again.drop_attrs().identical(whole.drop_attrs()) and end.weights.tobytes() == checkpoint.weights.tobytes()
    outputs = 10 * experiment.spectrum.module.output.in_features + 10
    assert experiment.spectrum.n_parameters == outputs < experiment.train.n_parameters


@pytest.mark.parametrize("kind", KINDS)
def test_the_torch_backend_is_taken_unless_another_is_named(kind):
    assert make_settings({**SMALL, "network": kind}).backend == "torch"
    assert make_settings({**SMALL, "network": kind, "backend": "torch"}).backend == "torch"
    assert make_settings(SMALL).backend == "numba"
    with pytest.raises(UsageError, match="backend = 'numba' knows fully connected"):
        make_settings({**SMALL, "network": kind, "backend": "numba"})
    with pytest.raises(UsageError, match=r"hidden = .* has no effect"):
        make_settings({**SMALL, "network": kind, "hidden": (5,)})
    with pytest.raises(UsageError, match="network = 'lstm'"):
        make_settings({**SMALL, "network": "lstm"})


def test_samples_that_are_no_images_are_refused():
    with pytest.raises(UsageError, match="takes images"):
        prepare(make_settings({**SMALL, "dataset": "gaussian-mixture", "network": "cnn"}))


def test_both_precisions_start_at_the_same_weights():
    wide, narrow = (prepare(make_settings({**SMALL, "network": "resnet", "dtype": d})) for d in ("float64", "float32"))
    assert wide.train.weights.dtype == np.float64 and narrow.train.weights.dtype == np.float32
    assert wide.train.weights.astype(np.float32).tobytes() == narrow.train.weights.tobytes()


def test_verify_says_that_it_knows_perceptrons_only(tmp_path):
    settings = make_settings({**SMALL, "network": "cnn"})
    start_folder(RunFolder(tmp_path / "run"), settings)
    with pytest.raises(UsageError, match="network 'cnn': verify compares backends on perceptrons"):
        verify_backends(tmp_path / "run", None, "digits", None, 20, 0)
