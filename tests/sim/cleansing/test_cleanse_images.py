"""Wrong labels among images, found by the recipe: from arrays, on the command line, and what is trained then."""

import json
import os
import tarfile
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

import sgdphases
from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.faces.cleanse.command import cleanse as command
from sgdphases.faces.cleanse.command import labelled_and_settings
from sgdphases.sim.cleansing.cleanse import cleanse, train_cleansed
from sgdphases.sim.cleansing.cleanse_images import (
    OTHER,
    PART_STEPS,
    ask_planted,
    image_accuracy,
    image_suspicion,
    mean_loss,
    part_epochs,
    plant,
    probabilities_of_others,
    probabilities_of_parts,
    recent,
)
from sgdphases.sim.cleansing.cross_fit import part_settings, parts
from sgdphases.sim.cleansing.data import labelled_data
from sgdphases.sim.recipe.choose import recipe_settings
from sgdphases.sim.recipe.learner import ImageLearner
from sgdphases.sim.recipe.watch import learn
from sgdphases.sim.run.schedule import steps_per_epoch
from sgdphases.sim.run.settings import make_settings

app = typer.Typer()
app.command()(command)


def pictures(n, *, classes=3, shape=(3, 8, 8), seed=0, wrong=0.0):
    """Images with a bright stripe where the class says, their classes, and labels, some of another class."""
    rng = np.random.default_rng(seed)
    right = rng.permutation(np.arange(n) % classes)
    x = rng.random((n, *shape), dtype=np.float32)
    for k, label in enumerate(right):
        x[k, ..., 2 * label + 1, :] += 1
    given = np.where(rng.random(n) < wrong, (right + rng.integers(1, classes, n)) % classes, right)
    return x, right, given


def quick(x, **values):
    chosen = make_settings({"dataset": "arrays", "network": "image", "epochs": 8, "batch_size": 20, **values})
    return recipe_settings(chosen, x.shape[1:], len(x))


def call(*arguments):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    if isinstance(done.exception, InputError):
        return (2 if isinstance(done.exception, UsageError) else 1), str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("noisy") / "watch.npz"


@pytest.fixture(scope="module")
def noisy(place):
    x, right, given = pictures(120, wrong=0.25)
    settings = quick(x)
    return x, right, given, settings, cleanse(settings, x, given, 3, checkpoint=place)


def test_wrong_labels_are_ranked_and_corrected(noisy, place):
    x, right, given, settings, found = noisy
    wrong = given != right
    assert roc_auc_score(wrong, found.consensus.loss) > 0.97
    assert np.mean(found.suggested == right) > 0.95 > np.mean(given == right)
    assert 1 <= found.consensus.t_clean <= 8 and len(found.consensus.rank) == 120
    known = cleanse(settings, x, given, 3, known_fraction=0.25, checkpoint=place)
    assert (~known.keep).sum() == 30 and wrong[~known.keep].mean() > 0.8
    assert np.array_equal(known.consensus.loss, found.consensus.loss)


def test_the_score_is_the_recent_probability_at_the_end_of_the_window(noisy, place):
    x, _, given, settings, found = noisy
    *_, last = learn(settings, x, given, 3, checkpoint=place)
    end = round(found.consensus.window[1])
    np.testing.assert_allclose(found.consensus.loss, mean_loss(last.sample_loss[recent(end) - 1]), rtol=1e-6)
    for epoch, count in ((1, 1), (8, 1), (9, 2), (16, 2), (17, 3), (20, 3)):  # an eighth, rounded up
        assert recent(epoch).tolist() == list(range(1, epoch + 1))[-count:]
    losses = np.random.default_rng(0).exponential(size=(4, 3)).astype(np.float32)
    np.testing.assert_allclose(mean_loss(losses), -np.log(np.exp(-losses.astype(float)).mean(axis=0)))
    assert np.array_equal(found.end_weights, last.state)


def test_a_flagged_label_is_never_its_own_suggestion(noisy):
    _, _, given, _, found = noisy
    assert (~found.keep).any() and not (found.suggested == given)[~found.keep].any()


def test_what_is_trained_afterwards(noisy):
    x, right_labels, given, settings, found = noisy
    checked = replace(found, keep=given == right_labels)
    fresh, right, _ = pictures(60, seed=1)
    restarted = train_cleansed(settings, x, given, 3, checked, "restart")
    assert restarted.n_samples == checked.keep.sum() and image_accuracy(restarted, fresh, right) > 0.9
    said = []
    stopped = train_cleansed(settings, x, given, 3, replace(found, clean_step=25), "stop", lambda *a: said.append(a))
    assert stopped.step == 25 and said[-1] == ("training without them (stop)", 25, 25)
    again = train_cleansed(settings, x, given, 3, replace(found, clean_step=stopped.n_steps), "stop")
    assert np.array_equal(again.state, found.end_weights)  # through the same weights
    with pytest.raises(UsageError, match="choose restart"):
        train_cleansed(settings, x, given, 3, found, "continue")
    with pytest.raises(UsageError, match="no label is kept"):
        train_cleansed(settings, x, given, 3, replace(found, keep=np.zeros(120, bool)), "restart")
    with pytest.raises(UsageError, match="stop, continue, restart"):
        train_cleansed(settings, x, given, 3, found, "guess")


def test_three_parts_are_asked_about_each_other(noisy, place):
    """Sample n of part k is asked of the networks of parts k+1 and k+2, in this order."""
    x, right, given, settings, found = noisy
    assert {f"watch-part-{k}.npz" for k in (1, 2, 3)} < {each.name for each in place.parent.iterdir()}
    outside = probabilities_of_parts(settings, x, given, 3, place)
    part = parts(given, settings.seed)
    assert np.bincount(part).tolist() == [40, 40, 40]
    for k in range(3):
        learnt, asked = part == k, part == (k + 1) % 3
        made = part_settings(settings, k, 40).model_copy(update={"epochs": 24})  # as many steps as on all samples
        alone = probabilities_of_others(made, x[learnt], given[learnt], 3, x[asked])
        np.testing.assert_allclose(outside[1, asked], alone, rtol=1e-4, atol=1e-6)
    assert made.seed != settings.seed
    assert np.mean(outside.mean(axis=0).argmax(axis=1) == right) > 0.8
    assert found.share.low <= (given != right).mean() <= found.share.high
    assert found.against.given < found.against.agreement


def test_mistakes_are_planted_where_networks_would_make_them():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 500)
    probability = np.full((500, 3), 0.01)
    probability[np.arange(500), y] = 0.98
    probability[:100] = [0.4, 0.3, 0.3]
    probability[:60, 1:] = [0.6, 0.0]  # class 2 is out of the question
    labels, plausible, arbitrary = plant(probability, y, seed=1)
    assert np.array_equal(labels != y, plausible | arbitrary) and not (plausible & arbitrary).any()
    assert plausible.sum() == arbitrary.sum() == 38 and plausible[:100].sum() > 25
    assert not (labels[:60] == 2)[(y[:60] != 2) & plausible[:60]].any()
    assert np.bincount((labels - y)[arbitrary] % 3, minlength=3)[1:].min() > 8  # either other class
    assert np.array_equal(labels, plant(probability, y, seed=1)[0])
    assert not np.array_equal(labels, plant(probability, y, seed=2)[0])


def test_planted_mistakes_are_learnt_with_the_labels(tmp_path):
    x, right, _ = pictures(60, seed=3)
    settings = quick(x, epochs=3)
    probability = probabilities_of_parts(settings, x, right, 3).mean(axis=0)
    planted = ask_planted(settings, x, right, 3, probability, 3, tmp_path / "watch.npz")
    assert planted.high == 1.0 and not planted.is_seen  # five are too few to say
    with np.load(tmp_path / "watch-planted.npz") as stored:
        assert stored["step"] == 9
    assert planted == ask_planted(settings, x, right, 3, probability, 3)


def test_others_are_answered_by_what_was_learnt_from_a_part(noisy, tmp_path):
    x, right, given, settings, _ = noisy
    half = np.arange(120) % 2 == 0
    said = []
    found = probabilities_of_others(
        settings, x[half], given[half], 3, x[~half], checkpoint=tmp_path / "half.npz", show=lambda *a: said.append(a),
        what="one half",
    ).argmax(axis=1)  # fmt: skip
    assert found.shape == (60,) and np.mean(found == right[~half]) > 0.9
    assert said[-1] == ("one half", 24, 24)
    probabilities = probabilities_of_others(
        settings, x[half], given[half], 3, x[~half], checkpoint=tmp_path / "half.npz"
    )
    assert np.array_equal(probabilities.argmax(axis=1), found)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    alone = probabilities_of_others(settings, x[half], given[half], 3, x[~half][:7])  # whoever else is asked about
    np.testing.assert_allclose(alone, probabilities[:7], rtol=1e-4, atol=1e-6)


def test_arrays_of_images_are_learnt_by_the_recipe():
    x, _, given = pictures(40, wrong=0.2)
    names = np.array(["ant", "bee", "cow"])
    options = dict(epochs=3, batch_size=20)
    found = sgdphases.find_wrong_labels(x, names[given], **options)
    assert set(found.suggested_labels) <= set(names)
    finder = sgdphases.WrongLabelFinder(**options).fit(255 * x + 3, names[given])  # float64, and in another scale
    np.testing.assert_allclose(finder.score_, found.score, rtol=0.05, atol=0.05)
    other = sgdphases.WrongLabelFinder(augment="none", **options).fit(x, names[given])
    assert not np.allclose(other.score_, found.score, rtol=0.05, atol=0.05)
    perceptron = sgdphases.find_wrong_labels(x, names[given], network="mlp", **options)
    assert perceptron.details.weights.size and not found.details.weights.size
    with pytest.raises(UsageError, match="choose 3 of both"):
        sgdphases.find_wrong_labels(x, names[given], epochs=2)
    with pytest.raises(UsageError, match="augment = 'shifts' has no effect on network = 'mlp'"):
        sgdphases.find_wrong_labels(x, names[given], augment="shifts", hidden=(5,))


def test_the_command_takes_the_recipe_and_goes_on_with_it(tmp_path, monkeypatch):
    x, _, given = pictures(40, wrong=0.2)
    np.savez(tmp_path / "mine.npz", x=np.clip(100 * x, 0, 255).astype(np.uint8), y=given)
    arguments = [tmp_path / "mine.npz", "--epochs", 4, "--batch-size", 10]
    code, text = call(*arguments, "--out", tmp_path / "whole")
    assert code == 0 and "network image, augment shifts+mirror" in text, text
    config = tomllib.loads((tmp_path / "whole" / "config.toml").read_text(encoding="utf-8"))
    assert (config["network"], config["augment"], config["learning_rate"]) == ("image", "shifts+mirror", 0.05)

    original, left = ImageLearner.advance, [0]

    def interrupted(self, stop):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        original(self, stop)

    for epochs, name, step in ((2, "watch.npz", 8), (2 + 8 + 1, "watch-part-2.npz", 2)):
        with monkeypatch.context() as patched:
            patched.setattr(ImageLearner, "advance", interrupted)
            left[0] = epochs
            code, text = call(*arguments, "--out", tmp_path / "cut")
        assert code == 130 and "Continue with the same command" in text
        with np.load(tmp_path / "cut" / name) as stored:
            assert stored["step"] == step
    code, text = call(*arguments, "--augment", "none", "--out", tmp_path / "cut")
    assert code == 2 and "other settings" in text
    code, text = call(*arguments, "--out", tmp_path / "cut")
    assert code == 0, text
    for name in ("labels.csv", "cleansing.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert json.loads((tmp_path / "cut" / "cleansing.json").read_text(encoding="utf-8"))["n_samples"] == 40


def test_pixels_beyond_one_are_not_standardised_one_by_one(tmp_path):
    """The recipe scales channels; the perceptron has every pixel of mean 0."""
    x, _, given = pictures(40)
    x = np.round(100 * x)
    np.savez(tmp_path / "floats.npz", x=x, y=given)
    base = {"dataset": str(tmp_path / "floats.npz")}
    labelled, chosen = labelled_and_settings(make_settings(base))
    assert chosen.network == "image" and np.array_equal(labelled.data.x_train, x)
    assert np.array_equal(labelled_data(chosen).data.x_train, x)  # as `apply` reads them again
    labelled, chosen = labelled_and_settings(make_settings({**base, "network": "mlp"}))
    assert chosen.network == "mlp" and np.abs(labelled.data.x_train.mean(axis=0)).max() < 1e-5
    labelled, chosen = labelled_and_settings(make_settings({**base, "standardize": "always"}))
    assert chosen.network == "image" and np.abs(labelled.data.x_train.mean(axis=0)).max() < 1e-5


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--network", "mlp", "--augment", "shifts"], "augment = 'shifts' has no effect"),
        (["--augment", "rotations"], "augment = 'rotations'"),
        (["--network", "image", "--hidden", "5"], "hidden = (5,) has no effect"),
        (["--batch-size", "200"], "exceeds the 60"),
        (["--batch-size", "2"], "batch_size = 2"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--epochs", "2"], "choose 3 of both"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(options, named, tmp_path):
    x, _, given = pictures(60)
    np.savez(tmp_path / "mine.npz", x=x, y=given)
    code, text = call(tmp_path / "mine.npz", *options, "--out", tmp_path / "out")
    assert code == 2 and named in text and not (tmp_path / "out").exists()


def test_grey_and_small_images_stay_with_the_perceptron():
    base = {"dataset": "digits", "train_size": 100}
    _, chosen = labelled_and_settings(make_settings(base))
    assert (chosen.network, chosen.augment, chosen.learning_rate, chosen.epochs) == ("mlp", "auto", 0.1, 5000)
    _, chosen = labelled_and_settings(make_settings({**base, "network": "image"}))
    assert (chosen.network, chosen.augment, chosen.learning_rate, chosen.epochs) == ("image", "shifts", 0.05, 1000)


def test_a_folder_of_real_photographs(tmp_path):
    """Sixty images of CIFAR-10, as JPEG: that they pass through; what is found in thousands is in docs/cleansing.md."""
    root = Path(os.environ.get("SGDPHASES_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
    archive = root / "cifar10" / "cifar10-jpeg.tar.xz"
    if not archive.is_file():
        pytest.skip(f"real CIFAR-10 as JPEG is not at {archive}; set SGDPHASES_DATA to the folder that holds cifar10/")
    with tarfile.open(archive, "r|xz") as packed:
        for member in packed:
            parts = Path(member.name).parts
            if len(parts) == 3 and int(parts[2][:4]) < 30:
                place = tmp_path / "photos" / parts[1] / parts[2]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(packed.extractfile(member).read())
            if parts[1:] == ("automobile", "0030.jpg"):
                break
    code, text = call(tmp_path / "photos", "--epochs", 3, "--noise-fraction", 0.3, "--out", tmp_path / "out")
    assert code == 0 and "network image, augment shifts+mirror" in text, text
    rows = (tmp_path / "out" / "labels.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 61 and "Area under the ROC curve" in text


@pytest.mark.parametrize(
    ("epochs", "part", "expected"),
    [(26, 5000, 26), (26, 4000, 26), (26, 775, 116), (26, 20, 1500), (10, 1000, 50), (1, 64, 79)],
)
def test_a_part_is_trained_on_for_as_many_steps_as_all_up_to_a_limit(epochs, part, expected):
    """79 steps are an epoch of 5,000 images."""
    settings = make_settings({"dataset": "arrays", "network": "image", "epochs": epochs, "batch_size": 64})
    assert part_epochs(settings, 5000, part) == expected
    assert expected * steps_per_epoch(part, min(64, part)) >= min(79 * epochs, PART_STEPS)


def test_an_image_is_suspect_where_its_label_is_improbable_and_another_class_is_not():
    probability = np.array([[0.2, 0.8, 0.0], [0.2, 0.4, 0.4], [0.9, 0.1, 0.0], [0.0, 0.0, 1.0]])
    loss = -np.log([0.2, 0.2, 0.8, 0.5])  # averaged over other epochs
    found = image_suspicion(loss, probability, np.array([0, 0, 0, 2]))
    np.testing.assert_allclose(found, [OTHER * 0.8 - 0.2, OTHER * 0.4 - 0.2, OTHER * 0.1 - 0.8, -0.5])
    assert np.array_equal(probability[0], [0.2, 0.8, 0.0])
