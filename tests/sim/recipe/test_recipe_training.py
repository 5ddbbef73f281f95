"""Training by the recipe: what is recorded, and that nothing is lost when it is cut off."""

import numpy as np
import pytest
import torch

from sgdphases.estimators.errors import InputError, TrainingDiverged, UsageError
from sgdphases.sim.recipe import watch
from sgdphases.sim.recipe.choose import recipe_settings
from sgdphases.sim.recipe.learner import ImageLearner, flushed_denormals, generalised_cross_entropy
from sgdphases.sim.recipe.watch import learn
from sgdphases.sim.run.settings import make_settings


def pictures(n, *, classes=3, shape=(3, 8, 8), seed=0):
    """Images with a bright stripe where the class says, and their classes."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    x = rng.random((n, *shape), dtype=np.float32)
    for k, label in enumerate(y):
        x[k, ..., 2 * label + 1, :] += 2
    return x, y


def quick(x, **values):
    chosen = make_settings({"dataset": "arrays", "network": "image", "epochs": 3, "batch_size": 16, **values})
    return recipe_settings(chosen, x.shape[1:], len(x))


def whole(settings, x, y, classes, **options):
    *_, last = learn(settings, x, y, classes, **options)
    return last


def assert_same_bits(one, other):
    assert one.step == other.step
    for name in ("sample_loss", "probability", "state"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


@pytest.fixture(scope="module")
def short():
    x, y = pictures(65)
    settings = quick(x)
    return settings, x, y, whole(settings, x, y, 3)


def test_losses_are_those_of_the_network_as_it_answers(short):
    """With running statistics, of two views at the end, in whatever company; probabilities are means over epochs."""
    settings, x, y, last = short
    assert last.sample_loss.shape == (3, 65) and last.sample_loss.dtype == np.float32
    learner = ImageLearner(settings, x, y, 3)
    learner.load(learner.n_steps, last.state, learner.momentum)
    for some in (np.arange(65), np.array([3]), np.arange(10, 40)):
        views = [np.exp(learner.log_probabilities(x[some], view)) for view in (6, 7)]
        found = -np.log(np.mean(views, axis=0))[np.arange(len(some)), y[some]]
        np.testing.assert_allclose(found, last.sample_loss[-1][some], rtol=1e-4, atol=1e-6)
    own = np.exp(-last.sample_loss[1:].astype(float)).mean(axis=0)  # the second half of three epochs: two
    np.testing.assert_allclose(last.probability[np.arange(65), y], own, rtol=1e-5)
    np.testing.assert_allclose(last.probability.sum(axis=1), 1, rtol=1e-5)


def test_asking_after_some_epochs_only_changes_nothing_of_what_is_said_there(short, tmp_path):
    """Others: some of the second half, the last among them. Samples learnt: those epochs, and no training beyond."""
    settings, x, y, last = short
    some = whole(settings, x, y, 3, epochs=np.array([1, 2]))
    assert np.array_equal(some.sample_loss, last.sample_loss[:2]) and some.step == some.n_steps == 2 * (last.step // 3)
    place = tmp_path / "watch.npz"
    running = learn(settings, x, y, 3, epochs=np.array([1, 3]), checkpoint=place)
    while next(running).step < 3 * last.step // 4:
        pass
    running.close()
    *_, resumed = learn(settings, x, y, 3, epochs=np.array([1, 3]), checkpoint=place)
    assert (
        np.array_equal(resumed.sample_loss, last.sample_loss[[0, 2]])
        and resumed.state.tobytes() == last.state.tobytes()
    )
    long = settings.model_copy(update={"epochs": 60})
    at = [31, 34, 36, 39, 42, 44, 47, 49, 52, 55, 57, 60]  # ASKED of the second half
    few, chosen = whole(long, x, y, 3, asked=x[:7]), whole(long, x, y, 3, asked=x[:7], epochs=np.array(at))
    assert len(at) == watch.ASKED and np.array_equal(few.probability, chosen.probability)
    np.testing.assert_allclose(few.probability.sum(axis=1), 1, rtol=1e-5)


def test_another_view_is_another_image(short):
    """Asking about a view of an image is asking about the image moved by hand; view 0 is the image itself."""
    y = short[2]
    x = np.random.default_rng(0).random((5, 3, 16, 24), dtype=np.float32)
    learner = ImageLearner(quick(x.repeat(5, axis=0)), x.repeat(5, axis=0), y[:25], 3)
    as_it_is = learner.log_probabilities(x)
    down = np.concatenate([x[:, :, 1:], x[:, :, -2:-1]], axis=2)  # by one pixel; the edge mirrors what is there
    assert np.array_equal(learner.log_probabilities(x, view=0), as_it_is)
    mirrored = learner.log_probabilities(down[..., ::-1], view=0)
    np.testing.assert_allclose(learner.log_probabilities(x, view=1), mirrored, rtol=1e-5)
    assert not np.allclose(mirrored, as_it_is, rtol=1e-3)
    plain = ImageLearner(quick(x.repeat(5, axis=0), augment="none"), x.repeat(5, axis=0), y[:25], 3)
    assert np.array_equal(plain.log_probabilities(x, view=1), plain.log_probabilities(x))
    assert learner.log_probabilities(x[:0]).shape == (0, 3)


def test_improbable_labels_pull_less():
    """The loss is (1 - p^q)/q, and its gradient that of cross-entropy times p^q, for the probable and the hopeless."""
    answers = torch.tensor([[0.0, 1.0, 2.0], [5.0, 0.0, -5.0], [300.0, 0.0, 0.0]], dtype=torch.float64)
    answers.requires_grad_()
    labels = torch.tensor([2, 2, 1])
    p = torch.softmax(answers, dim=1)[torch.arange(3), labels].detach()
    loss = generalised_cross_entropy(answers, labels)
    torch.testing.assert_close(loss.detach(), ((1 - p.sqrt()) / 0.5).mean())
    (found,) = torch.autograd.grad(loss, answers)
    (plain,) = torch.autograd.grad(torch.nn.functional.cross_entropy(answers, labels), answers)
    torch.testing.assert_close(found, p.sqrt()[:, None] * plain)
    assert torch.isfinite(found).all()


def test_a_seed_fixes_every_bit_and_global_streams_are_left_alone(short):
    settings, x, y, last = short
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert_same_bits(whole(settings, x, y, 3), last)
    assert torch.equal(torch.get_rng_state(), before)
    other = whole(settings.model_copy(update={"seed": 1}), x, y, 3)
    assert not np.array_equal(other.state, last.state)
    none = whole(settings.model_copy(update={"augment": "none"}), x, y, 3)
    assert not np.array_equal(none.state, last.state)


@pytest.mark.parametrize("pieces", [1, 4, 9, 14])
def test_a_run_left_anywhere_goes_on_to_the_same_bits(short, pieces, tmp_path, monkeypatch):
    """Left within an epoch or at its end, twice."""
    settings, x, y, last = short
    monkeypatch.setattr(watch, "PIECE_STEPS", 1)
    place = tmp_path / "watch.npz"
    for _ in range(2):
        running = learn(settings, x, y, 3, checkpoint=place)
        for _ in range(1 + pieces // 2):
            step = next(running).step
        running.close()
    resumed = learn(settings, x, y, 3, checkpoint=place)
    assert next(resumed).step == step  # not a step is lost
    *_, rest = resumed
    assert_same_bits(rest, last)
    assert_same_bits(whole(settings, x, y, 3, checkpoint=place), last)  # from the finished one


def test_a_step_cut_off_in_the_middle_is_done_again(short, tmp_path, monkeypatch):
    settings, x, y, last = short
    place, steps = tmp_path / "watch.npz", []
    original = torch.optim.SGD.step

    def interrupted(self, *arguments):
        steps.append(None)
        original(self, *arguments)
        if len(steps) == 7:
            raise KeyboardInterrupt  # weights have been changed, and the step is not counted yet

    with monkeypatch.context() as patched:
        patched.setattr("sgdphases.sim.recipe.learner.one_cycle", lambda *_: (rates, momenta))
        rates, momenta = (np.full(15, each) for each in (0.01, 0.9))
        expected = whole(settings, x, y, 3)
        patched.setattr(torch.optim.SGD, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            whole(settings, x, y, 3, checkpoint=place)
        assert_same_bits(whole(settings, x, y, 3, checkpoint=place), expected)
    assert not np.array_equal(expected.state, last.state)


def test_a_killed_run_goes_on_from_what_was_saved(short, tmp_path, monkeypatch):
    settings, x, y, last = short
    monkeypatch.setattr(watch, "SAVE_SECONDS", -1.0)
    place = tmp_path / "watch.npz"
    running = learn(settings, x, y, 3, checkpoint=place)
    next(running), next(running)
    kept = place.read_bytes()
    running.close()
    place.write_bytes(kept)
    assert_same_bits(whole(settings, x, y, 3, checkpoint=place), last)


def test_a_checkpoint_of_something_else_is_refused(short, tmp_path):
    settings, x, y, _ = short
    place = tmp_path / "watch.npz"
    whole(settings, x, y, 3, checkpoint=place)
    kept = place.read_bytes()
    for changed, error, message in (
        ((settings, x, y[::-1].copy()), InputError, "data differ"),
        ((settings, x + 1, y), InputError, "data differ"),
        ((settings.model_copy(update={"augment": "none"}), x, y), UsageError, "augment = 'none'"),
        ((settings.model_copy(update={"epochs": 4}), x, y), UsageError, "epochs = 4"),
    ):
        with pytest.raises(error, match=message):
            next(learn(*changed, 3, checkpoint=place))
        assert place.read_bytes() == kept
    with pytest.raises(InputError, match="data differ"):  # others asked about
        next(learn(settings, x, y, 3, asked=x[:5], checkpoint=place))
    with np.load(place) as stored:
        arrays = dict(stored)
    bad = arrays["state"].copy()
    bad[3] = np.nan
    for name, value in (("step", 10**6), ("step", 3), ("step", -1), ("state", arrays["state"][:-1]), ("state", bad)):
        np.savez(place, **{**arrays, name: value})
        with pytest.raises(InputError, match="does not go with these settings"):
            next(learn(settings, x, y, 3, checkpoint=place))
    for content, message in ((kept[: len(kept) // 2], "no usable checkpoint"), (b"", "no usable checkpoint")):
        place.write_bytes(content)
        with pytest.raises(InputError, match=message):
            next(learn(settings, x, y, 3, checkpoint=place))
    np.savez(place, **{**arrays, "recipe": np.int64(1)})
    with pytest.raises(InputError, match="another version"):
        next(learn(settings, x, y, 3, checkpoint=place))
    np.savez(place, **{name: each for name, each in arrays.items() if name != "recipe"})
    with pytest.raises(InputError, match="another version"):
        next(learn(settings, x, y, 3, checkpoint=place))
    del arrays["momentum"]
    np.savez(place, **arrays)
    with pytest.raises(InputError, match="no usable checkpoint"):
        next(learn(settings, x, y, 3, checkpoint=place))


@pytest.mark.parametrize(
    ("n", "classes", "shape", "values"),
    [
        (24, 2, (1, 8, 8), {}),  # of one batch and a bit
        (33, 3, (9, 8), {"batch_size": 4}),  # grey, without a channel
        (24, 5, (3, 8, 8), {"batch_size": 4}),  # classes missing in batches
        (25, 2, (4, 40, 8), {"dtype": "float64"}),
        (25, 2, (3, 36, 64), {"augment": "none"}),
    ],
)
def test_odd_shapes_and_few_samples(n, classes, shape, values):
    x, y = pictures(n, classes=min(classes, 4), shape=shape)
    found = whole(quick(x, **values), x, y, classes)
    assert found.sample_loss.shape == (3, n) and np.isfinite(found.sample_loss).all()
    assert found.probability.shape == (n, classes)


@pytest.mark.parametrize(("factor", "shift"), [(1e300, 0), (1e-300, 0), (255, 1000)])
def test_the_scale_of_pixels_does_not_matter(short, factor, shift):
    settings, x, y, last = short
    found = whole(settings, x.astype(np.float64) * factor + shift, y, 3)
    np.testing.assert_allclose(found.sample_loss, last.sample_loss, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("factor", [1e37, 1e-33])
def test_nor_does_it_in_single_precision(short, factor):
    settings, x, y, last = short
    found = whole(settings, x * np.float32(factor), y, 3)
    np.testing.assert_allclose(found.sample_loss, last.sample_loss, rtol=0.05, atol=0.05)


def test_a_constant_channel_and_equal_images_are_no_harm():
    x, y = pictures(40)
    x[:, 1] = 7
    assert np.isfinite(whole(quick(x), x, y, 3).sample_loss).all()
    x[:] = 1
    x.flags.writeable = False
    assert np.isfinite(whole(quick(x), x, y, 3).sample_loss).all()


def test_divergence_and_a_single_class_are_named(short):
    settings, x, y, _ = short
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        whole(settings.model_copy(update={"learning_rate": 1e30}), x, y, 3)
    with pytest.raises(UsageError, match="two classes at least"):
        next(learn(settings, x, 0 * y, 1))
    with pytest.raises(UsageError, match="device = 'cuda:99'"):
        next(learn(settings.model_copy(update={"device": "cuda:99"}), x, y, 3))


def test_how_denormal_numbers_are_treated_is_left_as_it_was():
    def kept():
        return float(torch.tensor(1e-39) * 1.0) != 0

    before = kept()
    with flushed_denormals():
        assert not kept()
    assert kept() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_on_cuda_about_the_same_comes_out(short):
    settings, x, y, last = short
    found = whole(settings.model_copy(update={"device": "cuda"}), x, y, 3)
    np.testing.assert_allclose(found.sample_loss, last.sample_loss, rtol=0.1, atol=0.1)
