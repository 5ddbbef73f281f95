"""Phases held against the sampling noise of their errors: rates of false ones, and runs in which there are none."""

import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import finish, start
from scipy.stats import binom, binomtest, fisher_exact, hypergeom
from trajectories import fall, trajectory
from two_lengths import slow

from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.phases.comparison import compare as compare_runs
from sgdphases.estimators.phases.evidence import (
    LEVEL,
    _at_least,
    _at_most_drawn,
    below_chance,
    counts_of,
    least_apart,
    lower,
    most_above_chance,
    rises,
)
from sgdphases.estimators.phases.find import find_phases
from sgdphases.estimators.phases.phase_time import combine_phases, phase_time
from sgdphases.estimators.phases.records import MEMORISING, NULLS, READINGS, Phase, Phases
from sgdphases.faces.run.figures import PICTURES, draw
from sgdphases.faces.run.page import write_report
from sgdphases.faces.terminal import show_report
from sgdphases.sim.run.folder import RunFolder
from sgdphases.sim.run.training import advance, prepare
from sgdphases.sim.run.trajectory import TEST_RIGHT, lost_samples

FOUR = ["I", "II", "III", "IV"]
sizes_of_samples = st.integers(1, 60_000)
SIZES = dict(n_samples=1000, n_test=1000, n_classes=10, chance_error=0.9, chance_error_train=0.9)
DRAWS = 400


def names(phases):
    return [phase.name for phase in phases.found]


def allowed(level=LEVEL, draws=DRAWS):
    """The most false ones among so many draws: three standard errors above the level."""
    return draws * level + 3 * np.sqrt(draws * level)


def read(right, train, error_c=None, error_w=None, **sizes):
    """A trajectory, from which test samples are right at each checkpoint (checkpoints, samples) and training errors."""
    rows = {}
    for now in right:
        found = lost_samples(rows, now.astype(float))
        found["test_error"] = 1 - now.mean()
        rows = {name: np.array([*rows.get(name, []), value]) for name, value in found.items()}
    steps, unknown = len(right), np.full(len(right), np.nan)
    table = {"train_error": train, "error_c": error_c, "error_w": error_w, "noise_fraction": np.full(steps, 0.3)}
    table |= {"test_error": rows["test_error"], "test_lost": rows["test_lost"]}
    table = {name: ("step", unknown if values is None else values) for name, values in table.items()}
    epoch = np.concatenate([[0.0], np.geomspace(0.1, 100, steps - 1)])
    return xr.Dataset(table, {"epoch": ("step", epoch)}, {**SIZES, "n_test": right.shape[1], **sizes})


def learning(steps, centre, top=0.9):
    """An error that falls to 0 around an epoch of `read`'s."""
    return top * fall(np.concatenate([[0.0], np.geomspace(0.1, 100, steps - 1)]), centre)


def test_a_test_error_at_chance_is_no_phase_however_many_checkpoints():
    """Independent binomial errors at every checkpoint, while the training labels are learnt by heart."""
    rng, false, kinds = np.random.default_rng(1), 0, set()
    for _ in range(DRAWS):
        steps, n, classes = int(rng.integers(20, 90)), int(rng.integers(30, 1000)), int(rng.integers(2, 11))
        right = rng.random((steps, n)) < 1 / classes
        train = learning(steps, 10, 1 - 1 / classes)
        found = find_phases(read(right, train, chance_error=1 - 1 / classes, chance_error_train=1 - 1 / classes))
        false += not set(names(found)) <= {MEMORISING}
        kinds |= set(names(found))
    assert false <= allowed() and kinds >= {MEMORISING}


def test_a_test_error_that_stays_low_does_not_turn():
    """Binomial scatter about a constant error after the fall is no rise, though the training error goes on falling."""
    rng, false = np.random.default_rng(2), 0
    for _ in range(DRAWS):
        steps, n = int(rng.integers(20, 90)), int(rng.integers(30, 1000))
        shape = learning(steps, 1, 1.0)
        right = rng.random((steps, n)) < 0.1 + (0.7 - 0.1) * (1 - shape)[:, None]
        train = 0.3 * learning(steps, 30, 1.0) + 0.6 * shape
        found = find_phases(read(right, train))
        false += bool(set(names(found)) & {"II", "III", "IV"})
    assert false <= allowed()


def test_a_test_error_that_turns_is_found_and_both_readings_are_said():
    rng = np.random.default_rng(3)
    shape, later = learning(60, 1, 1.0), learning(60, 30, 1.0)
    share = 0.1 + 0.7 * (1 - shape) - 0.25 * (1 - later)
    right = rng.random(2000) < share[:, None]  # the same samples, by how hard they are
    found = find_phases(read(right, 0.3 * later + 0.6 * shape))
    assert names(found) == FOUR and all(phase.p_value < 1e-6 for phase in found.found)
    assert "wrong labels" in found.reading and "overlapping classes" in found.reading
    few = find_phases(read(right[:, :40], 0.3 * later + 0.6 * shape))
    assert names(few) == ["fast learning", "exploration"] and "not by more than sampling noise" in few.doubt


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_a_mask_drawn_at_random_is_learnt_no_later(seed):
    """p-values of a permuted mask at most 1 % as often as they say, and a true mask's far below."""
    rng, false = np.random.default_rng(seed), 0
    for _ in range(60):
        steps, n = 40, int(rng.integers(20, 500))
        counts = replace(counts_of(read(np.ones((steps, 2)), learning(steps, 3))), train=n, wrong=0.3 * n // 1, clean=n)
        wrong = rng.permutation(n) < counts.wrong
        counts = replace(counts, clean=float((~wrong).sum()), wrong=float(wrong.sum()))
        missed = rng.random(n) < learning(steps, 3)[:, None]
        apart = least_apart(missed[:, ~wrong].mean(axis=1), missed[:, wrong].mean(axis=1), counts)
        false += apart <= LEVEL
    assert false <= 4
    assert least_apart(np.array([0.9, 0.1]), np.array([0.9, 0.9]), counts) < LEVEL


def test_a_permuted_mask_gives_no_phase_of_wrong_labels_and_says_how_sure_that_is():
    data = trajectory().assign_attrs(SIZES)
    for name in ("error_c", "error_w"):
        data[name][:] = data["train_error"]
    found = find_phases(data)
    assert not set(names(found)) & {"II", "III", "IV"} and "along with the others (p = 1)" in found.not_reached["III"]
    assert "not those marked as wrong" in found.doubt  # the test error turns all the same
    assert names(find_phases(data, use_wrong=False)) == FOUR


@given(clean=st.floats(1.0, 5.0), wrong=st.floats(20.0, 300.0), scale=st.floats(1e-3, 1e3), known=st.booleans())
@settings(max_examples=25, deadline=None)
def test_evidence_does_not_depend_on_the_unit_of_time(clean, wrong, scale, known):
    data = trajectory(clean, wrong).assign_attrs(SIZES)
    found = find_phases(data, use_wrong=known)
    again = find_phases(data.assign_coords(epoch=data["epoch"] * scale), use_wrong=known)
    assert names(found) == names(again) == FOUR and found.reading == again.reading
    assert [phase.p_value for phase in found.found] == [phase.p_value for phase in again.found]
    assert all(phase.p_value <= LEVEL and phase.null in NULLS.values() for phase in found.found)


@given(st.integers(1, 200), st.integers(1, 200), st.data())
def test_p_values_are_those_of_the_exact_tests(n, m, data):
    few, many = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    expected = fisher_exact([[few, n - few], [many, m - many]], alternative="less").pvalue
    assert lower(few / n, n, many / m, m, 1) == pytest.approx(expected, rel=1e-6)
    chance = data.draw(st.floats(0.01, 0.99))
    assert below_chance(few / n, n, chance, 1) == pytest.approx(
        binomtest(n - few, n, 1 - chance, alternative="greater").pvalue, rel=1e-6
    )
    back = data.draw(st.integers(0, n - few))
    expected = binomtest(few, few + back, alternative="greater").pvalue if few + back else 1.0
    assert rises(few / n, (few - back) / n, n, 1) == pytest.approx(expected, rel=1e-6)
    assert below_chance(few / n, n, chance, 10**9) <= 1 and 0 <= most_above_chance(few / n, n, chance) <= 1


def test_without_the_numbers_of_samples_significance_is_said_to_be_unknown():
    found = find_phases(trajectory())
    assert names(found) == FOUR and "significance unknown" in found.doubt
    assert all(np.isnan(phase.p_value) for phase in found.found)
    stored = found.to_dict()
    assert [phase["p_value"] for phase in stored["found"]] == [None] * 4
    json.dumps(stored, allow_nan=False)
    assert find_phases(trajectory().assign_attrs(SIZES)).doubt == ""


def test_without_the_samples_that_changed_sides_the_errors_are_taken_as_independent():
    data = trajectory().assign_attrs(SIZES)
    assert "test_lost" not in data
    assert names(find_phases(data, use_wrong=False)) == FOUR
    assert "II" not in names(find_phases(data.assign_attrs(n_test=30), use_wrong=False))


@pytest.mark.parametrize("n_test", [1, 2, 5])
def test_a_tiny_test_set_tells_nothing(n_test):
    right = np.random.default_rng(0).random((40, n_test)) < 2
    found = find_phases(read(right, learning(40, 3), chance_error=0.5))
    assert names(found) == [] and "too few" in found.not_reached["any phase"]


def test_one_class_and_constant_labels_have_no_phases():
    for chance in (0.0, 0.3):
        errors = np.concatenate([[0.9], np.full(39, chance)])  # a network that learns to answer the one class
        right = np.arange(200) >= errors[:, None] * 200
        found = find_phases(read(right, errors, chance_error=chance, chance_error_train=chance))
        assert names(found) == [] and found.not_reached, found


def test_a_network_that_starts_below_chance_and_stays_has_learnt_nothing():
    right = np.arange(500) >= np.full(40, 0.7)[:, None] * 500  # some random networks do
    found = find_phases(read(right, np.full(40, 0.7)))
    assert names(found) == [] and "neither test error" in found.not_reached["any phase"]


def test_a_run_that_ends_while_the_test_error_falls_has_no_phase_two():
    whole = trajectory(clean=30.0, wrong=900.0, points=200).assign_attrs(SIZES)
    for end in (20, 25, 30, 35):
        cut = whole.isel(step=whole["epoch"].to_numpy() <= end)
        assert set(names(find_phases(cut))) <= {"I", "fast learning"}, end
    assert names(find_phases(whole.isel(step=whole["epoch"].to_numpy() <= 300))) == ["I", "II"]


def test_a_network_that_forgets_has_not_memorised():
    """Two classes, all marked labels wrong: a network that ends constant gets half of them by chance."""
    data = trajectory(wrong=None).assign_attrs({**SIZES, "chance_error": 0.5, "chance_error_train": 0.5})
    lost = data["epoch"].to_numpy() > 100
    for name in ("error_c", "error_w", "train_error", "test_error"):
        data[name][:] = np.where(lost, 0.5, data[name])
    found = find_phases(data)
    assert "III" not in names(found) and "does not fall with it" in found.not_reached["III"]


def test_labels_are_learnt_by_heart_only_if_the_test_error_stays_above():
    """Few test samples: a training error a little below chance is no memorising, as the test error may be, too."""
    rng = np.random.default_rng(5)
    right = rng.random((40, 60)) < 0.12
    found = find_phases(read(right, np.linspace(0.9, 0.8, 40), n_samples=5000))
    assert names(found) == [] and "cannot be decided" in found.not_reached["any phase"]


def random_data(path, seed):
    rng = np.random.default_rng(seed)
    arrays = {f"x_{part}": rng.standard_normal((n, 50)).astype("f") for part, n in (("train", 500), ("test", 1000))}
    labels = {f"y_{part}": rng.integers(0, 5, n) for part, n in (("train", 500), ("test", 1000))}
    np.savez(path, **arrays, **labels)
    return str(path)


RUN = dict(hidden=(50, 50), batch_size=50, epochs=60, checkpoints=40, alignment_batches=0, learning_rate=0.2)


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
def test_pure_noise_shows_no_phase_of_generalisation(tmp_path, seed):
    """P1: inputs and labels random; "I to IV" in 12 of 12 runs before errors were held against their noise."""
    made = start(tmp_path / "run", RUN, dataset=random_data(tmp_path / "noise.npz", seed), seed=seed)
    data = finish(*made)[0]
    found = find_phases(data)
    assert names(found) == [MEMORISING] and found.found[0].p_value < LEVEL
    assert "nothing general is learnt" in found.reading and "more of the answers right than chance" in found.doubt
    assert "no test error falls below chance" in found.not_reached["any phase of generalisation"]
    assert np.isnan(found.t_min) and found.t_fit > 1
    legend = draw(PICTURES["phases"], data, found).axes[0].get_legend()
    assert "no test error below chance" in [text.get_text() for text in legend.get_texts()]


@pytest.mark.usefixtures("pictures")
def test_the_terminal_shows_evidence_reading_and_doubt(tmp_path, capsys):
    made = start(tmp_path / "run", RUN, dataset=random_data(tmp_path / "noise.npz", 0))
    finish(*made)
    show_report(made[1])
    shown = " ".join(capsys.readouterr().out.split())
    assert "memorising only 0–60 <1e-6" in shown and "Reading: labels are memorised one by one" in shown
    assert "Doubt: a rule that makes up to" in shown and "Not reached: any phase of generalisation" in shown


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
@pytest.mark.usefixtures("pictures")
def test_overlapping_classes_are_memorised_without_a_word_of_wrong_labels_alone(tmp_path, seed):
    """P2: no label wrong, separation 2: the record said nothing but "I to IV" before."""
    more = dict(dataset="gaussian-mixture", dataset_options={"separation": 2.0}, seed=seed)
    made = start(tmp_path / "run", RUN, **more)
    found = find_phases(finish(*made)[0])
    assert "samples that no common rule explains are memorised" in found.reading
    if "II" in names(found):
        assert found.reading == READINGS["no mask"] and "overlapping classes" in found.reading
    assert all(phase.p_value <= LEVEL for phase in found.found)
    report = RunFolder(tmp_path / "run")
    write_report(report)
    page, stored = report.report.read_text(encoding="utf-8"), json.loads(report.phases.read_text(encoding="utf-8"))
    assert "samples that no common rule explains" in page and stored["reading"] == found.reading
    for phase, again in zip(found.found, stored["found"], strict=True):
        assert again["p_value"] == phase.p_value and again["null"] == phase.null and phase.null in page


def test_what_a_run_records_survives_a_stop_and_agrees_with_the_test_samples(tmp_path):
    """Attributes, test_lost and the bits behind it, by hand; a checkpoint without them is continued without them."""
    more = {"dataset_options": {"separation": 3.0}, "test_size": 97}
    short = dict(dataset="gaussian-mixture", epochs=6, checkpoints=12, **more)
    experiment, folder = start(tmp_path / "run", RUN, **short)
    whole, checkpoint = finish(experiment, folder)
    right = np.unpackbits(checkpoint.rows[TEST_RIGHT], axis=1)[:, :97].astype(bool)
    np.testing.assert_allclose(1 - right.mean(axis=1), whole["test_error"])
    for k in range(len(right)):
        best = int(right[: k + 1].mean(axis=1).argmax())
        lost = right[best] & ~right[k] & (right[best].mean() > right[k].mean())
        assert float(whole["test_lost"][k]) == pytest.approx(lost.mean())
    assert TEST_RIGHT not in whole and float(whole["test_lost"].max()) > 0
    labels, most = experiment.data.y_test, max(np.bincount(experiment.data.y_test))
    assert whole.attrs["n_test"] == len(labels) == 97 and whole.attrs["chance_error"] == pytest.approx(1 - most / 97)
    assert whole.attrs["n_classes"] == 10 and 0.8 < whole.attrs["chance_error_train"] < 0.9

    again, other = start(tmp_path / "other", RUN, **short)
    pieces = advance(again, other)
    next(pieces)
    pieces.close()
    begun = other.read_checkpoint()
    resumed, _ = finish(prepare(other.read_settings()), other, begun)
    assert resumed.drop_attrs().identical(whole.drop_attrs())
    old = replace(begun, rows={k: v for k, v in begun.rows.items() if k not in (TEST_RIGHT, "test_lost")})
    without, _ = finish(prepare(other.read_settings()), other, old)
    assert "test_lost" not in without
    assert without.drop_attrs().identical(whole.drop_vars("test_lost").drop_attrs())


def test_memorising_only_is_a_kind_of_its_own():
    one = Phases((Phase(MEMORISING, 0.0, 10.0, 0.0, 0.0, 1e-4, NULLS[MEMORISING]),), {}, reading="a", doubt="b")
    other = Phases((Phase(MEMORISING, 0.0, 10.0, 0.0, 0.0, 1e-3, NULLS[MEMORISING]),), {}, reading="a", doubt="c")
    both = combine_phases([one, other])
    assert both.found[0].p_value == pytest.approx(2 * np.mean([1e-4, 1e-3])) and both.found[0].null == NULLS[MEMORISING]
    assert (both.reading, both.doubt) == ("a", "b; c")
    unknown = Phases((Phase(MEMORISING, 0.0, 10.0, 0.0, 0.0),), {})
    assert np.isnan(combine_phases([one, unknown]).found[0].p_value)
    assert phase_time([5.0], one)[0] == pytest.approx(0.5)
    with pytest.raises(UsageError, match=r"memorising only \(1 of 2 runs\), others the four"):
        combine_phases([one, find_phases(trajectory())])
    noise = read(np.random.default_rng(0).random((60, 500)) < 0.1, learning(60, 10))
    with pytest.raises(UsageError, match=r"noise shows memorising only, wrong the four phases"):
        compare_runs({"wrong": trajectory(), "noise": noise}, ())


@given(sizes_of_samples, sizes_of_samples, st.floats(0, 1), st.floats(0, 1))
def test_tails_are_those_of_scipy_without_loading_it(n, other, share, chance):
    few, many = round(n * share), round(other * chance)
    for found, expected in (
        (_at_least(few, n, chance), binom.sf(few - 1, n, chance)),
        (_at_most_drawn(few, n + other, few + many, n), hypergeom.cdf(few, n + other, few + many, n)),
    ):
        assert found == pytest.approx(expected, rel=1e-8, abs=1e-280)
