"""Network, augmentation and schedule of the recipe, and when it is taken."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdphases.estimators.errors import UsageError
from sgdphases.sim.recipe.augment import Moves, draw_moves, moved
from sgdphases.sim.recipe.choose import check_recipe, recipe_settings, takes_recipe
from sgdphases.sim.recipe.network import halvings, recipe_network
from sgdphases.sim.recipe.schedule import batches, one_cycle
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.run.training import prepare
from sgdphases.sim.sweep.plan import plan_sweep


def made(**values):
    return make_settings({"dataset": "arrays", **values})


def work(shape):
    """Multiplications of one forward pass in convolutions."""
    counted = []
    network = recipe_network(shape, 10, np.random.default_rng(0)).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, _, out: counted.append(m.weight.numel() * out[0, 0].numel()))
    with torch.no_grad():
        assert network(torch.zeros(1, *shape)).shape == (1, 10)
    return sum(counted)


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 9, 13), (2, 8, 224), (3, 28, 28), (3, 33, 47), (5, 64, 64), (3, 100, 17), (3, 224, 224)]
)
@pytest.mark.parametrize(("size", "classes"), [(2, 2), (5, 7)])
def test_images_of_any_shape_can_be_learnt(shape, size, classes):
    network = recipe_network(shape, classes, np.random.default_rng(0))
    answers = network(torch.randn(size, *shape))
    answers.sum().backward()
    assert answers.shape == (size, classes) and torch.isfinite(answers).all()
    assert all(torch.isfinite(each.grad).all() for each in network.parameters())


def test_larger_images_cost_little_more():
    assert [halvings(side, side) for side in (8, 28, 32, 64, 96, 224)] == [0, 1, 1, 2, 3, 4]
    small = work((3, 32, 32))
    assert work((3, 64, 64)) < 1.5 * small and work((3, 224, 224)) < 3 * small  # which has 49 times the pixels


def test_weights_are_drawn_by_the_given_generator_alone():
    before = torch.get_rng_state()
    one, same, other = (recipe_network((3, 8, 8), 3, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one[0].weight, same[0].weight) and not torch.equal(one[0].weight, other[0].weight)
    for module in one.modules():
        if isinstance(module, torch.nn.Conv2d):
            reach = 1 / math.sqrt(module.weight[0].numel())
            assert reach * 0.9 < module.weight.abs().max() <= reach


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(8, 20), st.integers(8, 20), st.integers(1, 4))
def test_images_are_moved_as_if_padded_by_reflection(seed, height, width, channels):
    rng = np.random.default_rng(seed)
    images = rng.random((6, channels, height, width))
    moves = draw_moves(rng, 6, height, width, "shifts+mirror")
    index = rng.permutation(6)[:4]
    found = moved(torch.from_numpy(images).permute(0, 2, 3, 1), index, moves).numpy()
    reach = 3  # of up to 20 pixels
    for image, k in zip(found, index, strict=True):
        source = images[k][:, :, ::-1] if moves.mirrored[k] else images[k]
        padded = np.pad(source, ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
        top, left = reach + moves.down[k], reach + moves.across[k]
        assert np.array_equal(image, padded[:, top : top + height, left : left + width])


def test_shifts_are_uniform_and_half_of_the_images_mirrored():
    n, sides = 90_000, 9  # shifts by -4 to 4
    moves = draw_moves(np.random.default_rng(0), n, 32, 32, "shifts+mirror")
    table = np.zeros((sides, sides))
    np.add.at(table, (moves.down + 4, moves.across + 4), 1)
    expected = n / sides**2
    chi_square = ((table - expected) ** 2 / expected).sum()
    assert abs(chi_square - 80) < 5 * math.sqrt(160)  # 80 degrees of freedom
    assert abs(moves.mirrored.mean() - 0.5) < 5 * 0.5 / math.sqrt(n)
    assert abs(np.corrcoef(moves.mirrored, moves.across)[0, 1]) < 5 / math.sqrt(n)


@pytest.mark.parametrize(("augment", "mirrors", "shifts"), [("none", 0, 0), ("shifts", 0, 1), ("shifts+mirror", 1, 1)])
def test_only_what_is_asked_for_is_done(augment, mirrors, shifts):
    moves = draw_moves(np.random.default_rng(0), 200, 10, 224, augment)
    assert moves.mirrored.any() == mirrors
    assert (np.abs(moves.down).max(), np.abs(moves.across).max()) == (shifts * 1, shifts * 28)
    image = torch.arange(2 * 10 * 224 * 3.0).reshape(2, 10, 224, 3)
    still = Moves(np.zeros(2, int), np.zeros(2, int), np.zeros(2, bool))
    assert torch.equal(moved(image, np.array([1]), still), image[1:].permute(0, 3, 1, 2))


def test_rates_go_through_one_cycle():
    rates, momenta = one_cycle(1000, 0.05)
    top = rates.argmax()
    assert rates.max() == pytest.approx(0.05, rel=1e-4) and top == pytest.approx(200, abs=2)
    assert rates[0] == pytest.approx(0.002) and rates[-1] < 1e-5
    falling = 0.05 / 2 * (1 + np.cos(np.pi * (np.arange(1000) - 199.2) / 800.8))[top:]
    np.testing.assert_allclose(rates[top:], falling, atol=2e-4)
    assert (np.diff(rates[:top]) > 0).all() and (np.diff(rates[top:]) < 0).all()
    np.testing.assert_allclose(momenta, 0.95 - 0.1 * (rates - 0.002) / 0.048, atol=0.005)


@settings(max_examples=50)
@given(st.integers(0, 100), st.integers(0, 5), st.integers(20, 300), st.integers(4, 70))
def test_batches_hold_every_sample_once_and_are_even(seed, epoch, n, batch_size):
    batch_size = min(batch_size, n)
    parts = batches(seed, epoch, n, batch_size)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(n))
    sizes = [len(part) for part in parts]
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1 and min(sizes) >= max(2, batch_size / 2)


@pytest.mark.parametrize(
    ("values", "shape", "expected"),
    [
        ({}, (3, 32, 32), True),
        ({}, (3, 8, 8), True),
        ({}, (3, 6, 5), False),
        ({}, (1, 28, 28), False),
        ({}, (28, 28), False),
        ({}, (1, 8, 8), False),
        ({}, (30, 28), True),
        ({}, (1, 64, 64), True),
        ({}, (784,), False),
        ({"network": "mlp"}, (3, 32, 32), False),
        ({"network": "cnn"}, (3, 32, 32), False),
        ({"network": "image"}, (1, 8, 8), True),
        ({"hidden": (50,)}, (3, 32, 32), False),
        ({"activation": "tanh"}, (3, 32, 32), False),
        ({"backend": "numpy"}, (3, 32, 32), False),
        ({"backend": "torch"}, (3, 32, 32), True),
    ],
)
def test_when_the_recipe_is_taken(values, shape, expected):
    assert takes_recipe(made(**values), shape) == expected


def test_without_pytorch_colour_images_are_left_to_the_perceptron(monkeypatch):
    monkeypatch.setattr("sgdphases.sim.recipe.choose.find_spec", lambda name: None)
    assert not takes_recipe(made(), (3, 32, 32)) and takes_recipe(made(network="image"), (3, 32, 32))


def test_what_is_not_given_is_filled_in():
    chosen = recipe_settings(made(), (3, 32, 32), 5000)
    assert (chosen.network, chosen.augment, chosen.backend) == ("image", "shifts+mirror", "torch")
    assert (chosen.learning_rate, chosen.batch_size, chosen.epochs) == (0.05, 64, 26)  # 2,000 steps of 79 an epoch
    assert recipe_settings(made(), (3, 32, 32), 50_000).epochs == 25
    few = recipe_settings(made(network="image"), (1, 9, 9), 30)
    assert (few.augment, few.batch_size, few.epochs) == ("shifts", 30, 2000)
    with pytest.raises(UsageError, match="needs 24 samples at least, not 19"):
        recipe_settings(made(), (3, 32, 32), 19)
    own = recipe_settings(made(learning_rate=0.1, batch_size=50, epochs=3, augment="none"), (3, 9, 9), 60)
    assert (own.learning_rate, own.batch_size, own.epochs, own.augment) == (0.1, 50, 3, "none")


@pytest.mark.parametrize(
    ("values", "shape", "n", "named"),
    [
        ({}, (784,), 100, "takes images of 8x8"),
        ({}, (3, 7, 32), 100, "takes images of 8x8"),
        ({"batch_size": 4}, (3, 32, 32), 7, "needs 8 samples"),
        ({"batch_size": 101}, (3, 32, 32), 100, "batch_size = 101 exceeds"),
        ({"batch_size": 3}, (3, 32, 32), 100, "batch_size = 3"),
        ({"activation": "tanh"}, (3, 32, 32), 100, "activation = 'tanh'"),
        ({"loss": "squared"}, (3, 32, 32), 100, "cross-entropy"),
    ],
)
def test_what_the_recipe_cannot_learn_is_refused(values, shape, n, named):
    with pytest.raises(UsageError, match=named):
        check_recipe(made(network="image", **{"batch_size": 10, **values}), shape, n)


def test_runs_and_sweeps_refuse_the_recipe():
    base = dict(dataset="cifar10", data_dir="nowhere")
    with pytest.raises(UsageError, match="no plain SGD"):
        prepare(make_settings({**base, "network": "image"}))
    with pytest.raises(UsageError, match="augment = 'shifts' is for cleansings"):
        prepare(make_settings({**base, "network": "cnn", "augment": "shifts"}))
    with pytest.raises(UsageError, match="no plain SGD"):
        plan_sweep(base, {"network": ("cnn", "image")})
    with pytest.raises(UsageError, match=r"hidden = .* has no effect"):
        make_settings({**base, "network": "image", "hidden": (3,)})
