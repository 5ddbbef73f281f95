"""Wrong labels from the dynamics: what the method may not depend on, and that it works from end to end."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import check_estimator
from two_lengths import examples

import sgdphases
from sgdphases.estimators.cleansing.consensus import consensus
from sgdphases.estimators.cleansing.wrong_labels import wrong_labels
from sgdphases.estimators.errors import InputError, TrainingDiverged, UsageError
from sgdphases.sim.cleansing.cleanse import WAYS, cleanse, cleansing_gain, measure_gain, train_cleansed
from sgdphases.sim.cleansing.sample_losses import enough_epochs, probe_steps, revisit, trainer, watch
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.run.training import noisy_data

DIGITS = make_settings(dict(dataset="digits", noise_fraction=0.4, epochs=300, checkpoints=30, hidden=(50, 50)))


@pytest.fixture(scope="module")
def digits():
    data = noisy_data(DIGITS)
    return data, cleanse(DIGITS, data.x_train, data.y_train, data.n_classes)


def made_up(seed, n=200, probes=12):
    """Losses of a made-up run: noise at first, then the wrong labels high, then learnt one after another."""
    rng = np.random.default_rng(seed)
    wrong, epochs = rng.random(n) < 0.3, np.geomspace(1, 100, probes)
    own = rng.normal(0, 0.3, n)
    learnt = np.exp(rng.uniform(np.log(20), np.log(100), n))
    height = np.where(epochs[:, None] < learnt, 4.0, 0.0) * wrong - 1
    signal = np.clip((epochs[:, None] - 1) / 4, 0, 1)
    return epochs, np.logaddexp(0, signal * height + own + rng.normal(0, 0.2, (probes, n))), wrong


@settings(max_examples=25)
@given(
    st.integers(0, 2**31),
    st.sampled_from([np.sqrt, np.log1p, np.expm1, lambda loss: loss**3, lambda loss: 7 * loss + 2]),
)
def test_increasing_functions_of_the_losses_change_nothing(seed, function):
    epochs, losses, _ = made_up(seed)
    one, other = consensus(epochs, losses), consensus(epochs, function(losses))
    assert one.t_clean == other.t_clean and np.array_equal(one.in_window, other.in_window)
    assert np.allclose(one.rank, other.rank) and np.allclose(one.agreement, other.agreement)


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_samples_may_come_in_any_order(seed):
    epochs, losses, _ = made_up(seed)
    order = np.random.default_rng(seed).permutation(losses.shape[1])
    one, other = consensus(epochs, losses), consensus(epochs, losses[:, order])
    assert one.t_clean == other.t_clean and np.allclose(one.loss[order], other.loss)
    first, second = wrong_labels(one.loss), wrong_labels(other.loss)
    assert np.allclose(first.probability[order], second.probability, atol=1e-6)


def test_the_medoid_lies_where_wrong_labels_stand_out():
    for seed in range(20):
        epochs, losses, wrong = made_up(seed)
        found = consensus(epochs, losses)
        at_medoid = losses[epochs == found.t_clean][0]
        first, there, last = (roc_auc_score(wrong, each) for each in (losses[0], at_medoid, losses[-1]))
        assert there > 0.8 > max(first, last) and found.window[0] <= found.t_clean <= found.window[1]
        assert roc_auc_score(wrong, found.loss) > 0.95


def test_probes_before_the_first_epoch_do_not_count():
    epochs, losses, _ = made_up(0)
    early = np.random.default_rng(0).random((5, losses.shape[1]))
    more = consensus(np.concatenate([np.linspace(0, 0.9, 5), epochs]), np.concatenate([early, losses]))
    assert np.array_equal(more.loss, consensus(epochs, losses).loss)


def test_constant_probes_agree_with_nothing():
    epochs, losses, _ = made_up(0)
    losses[3] = 1.0
    agreement = consensus(epochs, losses).agreement
    assert np.isfinite(agreement).all() and agreement[3, 5] == 0


def test_bad_records_are_refused():
    epochs, losses, _ = made_up(0)
    with pytest.raises(InputError, match="do not fit"):
        consensus(epochs[:-1], losses)
    with pytest.raises(InputError, match="diverged"):
        consensus(epochs, np.where(losses > 1, np.nan, losses))
    with pytest.raises(InputError, match="at least 3 probes"):
        consensus(epochs / 200, losses)
    with pytest.raises(UsageError, match="needs the labels"):
        wrong_labels(losses[5], per_class=True)


def test_classes_that_were_not_learnt_are_no_wrong_labels():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 1000)
    losses = np.logaddexp(0, np.where(labels < 4, -1.0, 4.0) + rng.normal(0, 0.5, 1000))
    assert wrong_labels(losses).has_noise  # the losses alone show two populations
    found = wrong_labels(losses, labels)
    assert not found.is_learnt and not found.has_noise and not found.flagged.any() and found.label_share > 0.9


def test_hard_classes_are_no_wrong_labels():
    """One class in five is hard: the losses alone show two heaps, but labels explain more than a fifth of their spread.
    As many samples as high, but of all classes alike, are wrong labels; so is a hard class that is far apart."""
    rng = np.random.default_rng(0)
    labels, noise = rng.integers(0, 5, 2000), rng.normal(size=2000)
    hard = (labels == 0) & (rng.random(2000) < 0.6)
    anywhere = rng.permutation(hard)
    heaps = {name: np.logaddexp(0, 3.5 * where - 2 + noise) for name, where in (("hard", hard), ("any", anywhere))}
    assert wrong_labels(heaps["hard"]).has_noise and wrong_labels(heaps["any"], labels).has_noise
    found = wrong_labels(heaps["hard"], labels)
    assert 0.2 < found.label_share < 0.5 and found.mixture.is_two and not found.has_noise and not found.flagged.any()
    assert wrong_labels(np.logaddexp(0, 3.5 * hard - 2 + 0.5 * noise), labels).has_noise
    apart = wrong_labels(heaps["hard"], labels, per_class=True)  # the hard class by itself has two heaps
    assert (
        apart.has_noise
        and set(apart.per_class) == {0}
        and np.mean(apart.flagged[labels == 0] == hard[labels == 0]) > 0.9
    )


def test_a_few_wrong_labels_are_found_though_they_are_believed_in_the_end(monkeypatch):
    """Ranks that outlive phase II: wrong labels, learnt from epoch 20 to 34, have the largest losses at 1,000."""
    epochs = np.geomspace(1, 1000, 48)
    phase, late = np.log(epochs)[:, None] / np.log(1000), np.clip(np.log(epochs / 20) / np.log(1.7), 0, 1)[:, None]
    for seed in range(10):
        rng = np.random.default_rng(seed)
        wrong, (one, other) = rng.random(1000) < 0.1, rng.normal(0, 0.5, (2, 1000))
        own = np.cos(phase) * one + np.sin(phase) * other  # the order within each population changes slowly
        losses = np.logaddexp(0, np.where(wrong, 2 - 5 * late, -3 - 3 * late) + own)
        found = consensus(epochs, losses)
        assert found.agreement[epochs == found.t_clean].min() > 0.8 and found.window[1] <= 3 * found.t_clean < 150
        assert np.mean(wrong_labels(found.loss).flagged == wrong) > 0.99
        with monkeypatch.context() as patched:
            patched.setattr("sgdphases.estimators.cleansing.consensus.LATEST", np.inf)
            whole = consensus(epochs, losses)
            assert whole.window[1] == epochs[-1] and not wrong_labels(whole.loss).has_noise


def test_a_tenth_of_wrong_labels_in_a_gaussian_mixture():
    chosen = make_settings(
        dict(dataset="gaussian-mixture", train_size=2000, noise_fraction=0.1, epochs=250, checkpoints=40, seed=11)
    )
    data = noisy_data(chosen)
    wrong = data.y_train != data.y_clean
    flagged = ~cleanse(chosen, data.x_train, data.y_train, data.n_classes).keep
    assert wrong[flagged].mean() > 0.85 and flagged[wrong].mean() > 0.9


def test_hard_classes_need_mixtures_of_their_own():
    """Classes one to nine and a hard class: by itself the hard one is judged better. Seeds are fixed."""
    rng = np.random.default_rng(1)
    labels, wrong = rng.integers(0, 5, 5000), rng.random(5000) < 0.3
    losses = np.logaddexp(0, np.where(wrong, 3.0, -1.0) + 1.5 * (labels == 0) + rng.normal(0, 0.7, 5000))
    together, apart = wrong_labels(losses, labels), wrong_labels(losses, labels, per_class=True)
    hard = labels == 0
    assert (apart.flagged != wrong)[hard].mean() < (together.flagged != wrong)[hard].mean() / 2
    assert apart.noise_fraction == pytest.approx(wrong.mean(), abs=5 * np.sqrt(0.21 / 5000) + 0.005)
    assert set(apart.per_class) == set(range(5))


@examples(8, 40, st.integers(0, 2**31), st.integers(20, 300), st.floats(0.02, 0.98), st.sampled_from([0.0, 3.0]))
def test_where_the_share_is_known_so_many_are_flagged(seed, n, fraction, gap):
    """Of one mode as of two: those with the highest losses."""
    rng = np.random.default_rng(seed)
    losses = np.logaddexp(0, rng.normal(size=n) + gap * (rng.random(n) < 0.3))
    found = wrong_labels(losses, known_fraction=fraction)
    count = min(max(round(fraction * n), 1), n - 1)
    assert found.flagged.sum() == count and losses[found.flagged].min() > losses[~found.flagged].max()
    assert (np.diff(found.probability[np.argsort(losses)]) >= 0).all()
    assert np.array_equal(losses > found.mixture.loss_threshold, found.flagged)
    assert found.has_noise and found.found_by == "given" and found.noise_fraction == fraction


def test_a_known_share_that_makes_no_sense_is_refused():
    losses = np.linspace(0.1, 3, 50)
    for fraction in (0, 1, -0.2, 20, float("nan")):
        with pytest.raises(UsageError, match=r"known_fraction = .* between 0 and 1"):
            wrong_labels(losses, known_fraction=fraction)
    with pytest.raises(UsageError, match="leave mixture and per_class out"):
        wrong_labels(losses, kind="loss", known_fraction=0.2)
    with pytest.raises(UsageError, match="leave mixture and per_class out"):
        wrong_labels(losses, np.arange(50) % 2, per_class=True, known_fraction=0.2)
    for few in (losses[:10], np.ones(50)):
        with pytest.raises(InputError, match="give more samples"):
            wrong_labels(few, known_fraction=0.2)
    with pytest.raises(UsageError, match="between 0 and 1"):  # before anything is trained
        sgdphases.find_wrong_labels(np.eye(40), np.arange(40) % 2, known_fraction=40, epochs=10**9)


def test_a_run_that_ends_too_early_says_so(digits):
    short = DIGITS.model_copy(update={"epochs": 40})
    data = noisy_data(short)
    assert cleanse(short, data.x_train, data.y_train, 10).memorised < 0.2 < 0.4 < digits[1].memorised
    assert enough_epochs(5000, 50) == 100 and enough_epochs(1000, 50) == 500 and enough_epochs(60_000, 50) == 100


def test_digits_are_cleansed(digits):
    data, found = digits
    wrong = data.wrong
    assert roc_auc_score(wrong, found.consensus.loss) > 0.97
    assert found.keep[~wrong].mean() > 0.9 and found.keep[wrong].mean() < 0.1
    assert abs(found.found.noise_fraction - wrong.mean()) < 0.06
    assert np.mean(found.suggested == data.y_clean) > 0.92 > np.mean(data.y_train == data.y_clean)
    gain = measure_gain(DIGITS, data, found)
    assert all(gain[f"cleansing_gain_{way}"] > 0.5 for way in WAYS)
    a_n, a_c, a_p = (gain[name] for name in ("accuracy_n", "accuracy_continue", "accuracy_p"))
    assert gain["cleansing_gain_continue"] == cleansing_gain(a_n, a_c, a_p) == (a_c - a_n) / (a_p - a_n)


def test_truth_and_test_set_are_not_looked_at(digits):
    """Poisoned masks, right labels and test sets: the same bits come out, and out of the arrays alone, too."""
    data, found = digits
    rng = np.random.default_rng(0)
    poisoned = replace(
        data,
        y_clean=rng.permutation(data.y_clean),
        assigned=rng.random(data.n_samples) < 0.5,
        x_test=rng.random(data.x_test.shape).astype(np.float32),
        y_test=rng.permutation(data.y_test),
    )
    again = cleanse(DIGITS, poisoned.x_train, poisoned.y_train, poisoned.n_classes)
    for name in ("suggested", "keep", "weights", "end_weights"):
        assert np.array_equal(getattr(found, name), getattr(again, name)), name
    assert np.array_equal(found.found.probability, again.found.probability)
    arrays = sgdphases.find_wrong_labels(
        data.x_train, data.y_train, epochs=300, probes=30, hidden=(50, 50), seed=DIGITS.seed
    )
    assert np.array_equal(arrays.wrong_probability, found.found.probability)
    assert np.array_equal(arrays.suggested_labels, found.suggested)


def test_clean_digits_are_left_alone():
    clean = DIGITS.model_copy(update={"noise_fraction": 0.0})
    data = noisy_data(clean)
    found = cleanse(clean, data.x_train, data.y_train, data.n_classes)
    assert not found.found.has_noise and (~found.keep).mean() < 0.02


def test_going_back_passes_through_the_same_weights(digits):
    data, found = digits
    seen = dict(revisit(DIGITS, data.x_train, data.y_train, 10, [7, found.clean_step]))
    assert np.array_equal(seen[found.clean_step].weights, found.weights)
    stopped = train_cleansed(DIGITS, data.x_train, data.y_train, 10, found, "stop")
    assert np.array_equal(stopped.weights, found.weights)
    with pytest.raises(UsageError, match="stop, continue, restart"):
        train_cleansed(DIGITS, data.x_train, data.y_train, 10, found, "guess")


def test_weights_that_were_kept_are_those_that_training_again_comes_to(monkeypatch):
    short = DIGITS.model_copy(update={"epochs": 6, "checkpoints": 5})
    data = noisy_data(short)
    arrays, steps = (data.x_train, data.y_train, 10), probe_steps(short, data.n_samples).tolist()
    *_, seen = watch(short, *arrays)
    assert list(seen.kept) == steps
    again = {step: backend.weights for step, backend in revisit(short, *arrays, steps[:3]) if backend is not None}
    assert again.keys() == set(steps[:3])
    assert all(np.array_equal(weights, seen.kept[step]) for step, weights in again.items())
    with monkeypatch.context() as patch:
        patch.setattr("sgdphases.sim.cleansing.sample_losses.train_to", None)  # no training
        back = {step: backend.weights for step, backend in revisit(short, *arrays, steps[:3], seen.kept)}
    assert all(np.array_equal(weights, again[step]) for step, weights in back.items())
    del seen.kept[steps[1]]
    some = [step for step, backend in revisit(short, *arrays, steps[:3], seen.kept) if backend is None]
    assert some  # it trained
    monkeypatch.setattr("sgdphases.sim.cleansing.sample_losses.KEPT", 5 * seen.weights.nbytes - 1)
    *_, seen = watch(short, *arrays)
    assert not seen.kept


def test_a_watch_that_is_cut_off_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("sgdphases.sim.cleansing.sample_losses.SAVE_SECONDS", -1.0)
    short = DIGITS.model_copy(update={"epochs": 6, "checkpoints": 5})
    data = noisy_data(short)
    arrays = (data.x_train, data.y_train, 10)
    *_, whole = watch(short, *arrays)
    for stop in (1, 3, 5):
        place = tmp_path / f"{stop}.npz"
        for number, _ in enumerate(watch(short, *arrays, place)):
            if number == stop:
                break
        *_, rest = watch(short, *arrays, place)
        assert np.array_equal(rest.sample_loss, whole.sample_loss) and np.array_equal(rest.weights, whole.weights)
        *_, finished = watch(short, *arrays, place)
        assert np.array_equal(finished.sample_loss, whole.sample_loss)
    with pytest.raises(InputError, match="data differ"):
        next(watch(short, data.x_train, data.y_train[::-1].copy(), 10, place))
    assert np.array_equal(whole.epochs * 26, probe_steps(short, data.n_samples))


def test_wrong_labels_of_text_in_unscaled_features():
    rng = np.random.default_rng(0)
    right = rng.integers(0, 3, 400)
    x = 1000 * (np.eye(3)[right] * 4 + rng.normal(size=(400, 3))) + 5000
    given = np.array(["ant", "bee", "cow"])[np.where(rng.random(400) < 0.25, rng.integers(0, 3, 400), right)]
    truth = np.array(["ant", "bee", "cow"])[right]
    found = sgdphases.find_wrong_labels(x, given, epochs=30, probes=15, hidden=(20,))
    wrong = given != truth
    assert roc_auc_score(wrong, found.score) > 0.95 and np.mean(found.suggested_labels == truth) > 0.93
    finder = sgdphases.WrongLabelFinder(epochs=30, probes=15, hidden=(20,)).fit(x, given)
    assert np.array_equal(finder.suggested_labels_, found.suggested_labels)
    kept, labels = finder.fit_resample(x, given)
    assert len(kept) == len(labels) == (~found.flagged).sum()
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        sgdphases.find_wrong_labels(x, given, epochs=5, hidden=(20,), learning_rate=1e30)


@pytest.mark.parametrize("factor", [1e300, 1e-300])
def test_the_size_of_features_does_not_matter(factor):
    rng = np.random.default_rng(0)
    right = rng.integers(0, 4, 400)
    x = 3 * rng.normal(size=(4, 10))[right] + rng.normal(size=(400, 10))
    given = np.where(rng.random(400) < 0.3, (right + 1) % 4, right)
    options = dict(epochs=40, hidden=(30,), probes=20)
    found, scaled = (sgdphases.find_wrong_labels(each, given, **options) for each in (x, factor * x))
    assert found.has_noise and scaled.has_noise
    assert (found.flagged == scaled.flagged).mean() > 0.99


def test_bad_arrays_and_settings_are_refused():
    x, y = np.zeros((30, 2)), np.arange(30) % 2
    for arrays, options, error, message in (
        ((x, y[:-1]), {}, InputError, "30 samples and labels of shape"),
        ((x, y * 0.5), {}, InputError, "type float64"),
        ((x, y * 0), {}, UsageError, "two classes at least"),
        ((x[:, 0], y), {}, InputError, "cannot be used"),
        ((x + np.nan, y), {}, InputError, "NaN"),
        ((x, y), {"noise_fraction": 0.2}, UsageError, "noise_fraction: no setting"),
        ((x, y), {"epochs": 1}, UsageError, "choose 3 of both"),
        ((x, y), {"hiden": (3,)}, UsageError, "hiden is no setting"),
        ((x, y), {"mixture": "gamma"}, UsageError, "gamma"),
    ):
        with pytest.raises(error, match=message):
            sgdphases.find_wrong_labels(*arrays, **{"epochs": 4, "hidden": (3,), **options})


def test_scikit_learn_accepts_the_estimator():
    check_estimator(sgdphases.WrongLabelFinder(epochs=3, probes=4, hidden=(5,)), on_skip=None)


def test_the_gain_is_the_share_won_back():
    assert cleansing_gain(0.5, 0.8, 0.9) == pytest.approx(0.75)
    assert np.isnan(cleansing_gain(0.9, 0.9, 0.9))


def test_settings_that_cannot_be_trained_are_refused():
    x, y = np.zeros((30, 2)), np.arange(30) % 2
    with pytest.raises(UsageError, match="exceeds the 30"):
        trainer(make_settings(dict(dataset="arrays")), x, y, 2)
    with pytest.raises(UsageError, match="cross-entropy"):
        trainer(make_settings(dict(dataset="arrays", loss="squared", batch_size=5)), x, y, 2)


@pytest.mark.slow
def test_mnist(mnist_folder):
    """Fifteen hundred images, half wrong: about as good as the best of all probes, which nobody can know beforehand."""
    small = make_settings(
        dict(
            dataset="mnist", data_dir=str(mnist_folder), train_size=1500, noise_fraction=0.5, epochs=120,
            checkpoints=30, hidden=(50, 50),
        )
    )  # fmt: skip
    data = noisy_data(small)
    found = cleanse(small, data.x_train, data.y_train, data.n_classes)
    *_, seen = watch(small, data.x_train, data.y_train, 10)
    best = max(roc_auc_score(data.wrong, losses) for losses in seen.sample_loss)
    assert roc_auc_score(data.wrong, found.consensus.loss) > best - 0.02 and found.found.has_noise
