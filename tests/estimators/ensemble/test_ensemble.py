"""The closed forms against the enumeration of every minibatch of tiny data, and their identities."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle import TableBackend, definitions, plain_ensemble, stratified_ensemble

from sgdphases.estimators.ensemble.exact import exact
from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.theory.ensemble import (
    activity_from_populations,
    plain_excess,
    variance_factor,
)

NUMBERS = st.floats(-3, 3, width=32)  # zero gradients, repeated ones and tiny numbers are all among them


@st.composite
def tables(draw, min_samples=1, max_samples=6):
    """Per-sample gradients, shape (N, P), and a batch size."""
    shape = (draw(st.integers(min_samples, max_samples)), draw(st.integers(1, 4)))
    gradients = draw(hnp.arrays(np.float64, shape, elements=NUMBERS))
    return gradients, draw(st.integers(1, shape[0]))


@st.composite
def two_populations(draw):
    """Gradients, mask of wrong labels, and whole numbers of clean and wrong samples in the same proportion."""
    size_c, size_w, times = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    wrong = np.repeat([False, True], [times * size_c, times * size_w])
    wrong = wrong[draw(st.permutations(range(len(wrong))))]
    shape = (len(wrong), draw(st.integers(1, 3)))
    return draw(hnp.arrays(np.float64, shape, elements=NUMBERS)), wrong, size_c, size_w


def assert_matches(found, expected, gradients):
    """Compare with the tolerance of sums of numbers of this size; ratios only where they are well conditioned."""
    scale = (gradients**2).sum(axis=1).max()
    for name in ("activity", "directed_activity", "total_variance"):
        assert abs(getattr(found, name) - expected[name]) <= 1e-12 * scale + 1e-300, name
    if found.directed_activity <= 1e-6 * scale:
        return
    for name in ("orthogonal_activity", "parallel_activity", "parallel_variance"):
        assert abs(getattr(found, name) - expected[name]) <= 1e-9 * scale, name
    ratio = scale / found.directed_activity
    assert abs(found.projection_variance - expected["projection_variance"]) <= 1e-12 * (1 + ratio) ** 2
    assert abs(found.mean_projection - 1) <= 1e-12 * (1 + ratio)
    assert abs(expected["mean_projection"] - 1) <= 1e-12 * (1 + ratio)


@given(tables(), st.booleans())
def test_closed_forms_are_averages_over_every_minibatch(table, replacement):
    gradients, batch_size = table
    assume(not replacement or len(gradients) ** batch_size <= 3000)
    found = exact(TableBackend(gradients), batch_size=batch_size, replacement=replacement)
    assert_matches(found, definitions(plain_ensemble(gradients, batch_size, replacement)), gradients)


@given(two_populations(), st.booleans())
def test_both_ensembles_are_averages_over_every_minibatch(case, replacement):
    gradients, wrong, size_c, size_w = case
    batch_size = size_c + size_w
    assume(not replacement or len(gradients) ** batch_size <= 3000)
    plain = exact(TableBackend(gradients), batch_size=batch_size, wrong=wrong, replacement=replacement)
    assert_matches(plain, definitions(plain_ensemble(gradients, batch_size, replacement)), gradients)
    stratified = exact(
        TableBackend(gradients), batch_size=batch_size, wrong=wrong, replacement=replacement, ensemble="stratified"
    )
    every = stratified_ensemble(gradients, wrong, size_c, size_w, replacement)
    assert_matches(stratified, definitions(every), gradients)


@given(two_populations(), st.booleans())
def test_populations_are_averages_over_every_part_of_a_minibatch(case, replacement):
    gradients, wrong, size_c, size_w = case
    found = exact(TableBackend(gradients), batch_size=size_c + size_w, wrong=wrong, replacement=replacement)
    scale = (gradients**2).sum(axis=1).max()
    for suffix, members, size in (("c", ~wrong, size_c), ("w", wrong, size_w)):
        expected = definitions(plain_ensemble(gradients[members], size, replacement))
        share = members.mean()
        assert abs(getattr(found, f"activity_{suffix}") - expected["activity"]) <= 1e-12 * scale
        assert abs(getattr(found, f"total_variance_{suffix}") - expected["total_variance"]) <= 1e-12 * scale
        directed = getattr(found, f"directed_activity_{suffix}")
        assert abs(directed - share**2 * expected["directed_activity"]) <= 1e-12 * scale
        if expected["directed_activity"] > 1e-6 * scale:
            variance = getattr(found, f"projection_variance_{suffix}")
            ratio = scale / expected["directed_activity"]
            assert abs(variance - expected["projection_variance"]) <= 1e-12 * (1 + ratio) ** 2


@given(two_populations())
def test_equation_14_combines_the_mean_gradients(case):
    gradients, wrong, size_c, size_w = case
    found = exact(TableBackend(gradients), batch_size=size_c + size_w, wrong=wrong)
    cross = 2 * np.sqrt(found.directed_activity_c) * np.sqrt(found.directed_activity_w) * found.alignment_cw
    scale = (gradients**2).sum(axis=1).max()
    if np.isnan(found.alignment_cw):
        assert min(found.directed_activity_c, found.directed_activity_w) == 0
        cross = 0.0
    combined = found.directed_activity_c + found.directed_activity_w + cross
    assert abs(found.directed_activity - combined) <= 1e-12 * scale
    assert found.noise_fraction == wrong.mean()


@given(two_populations())
def test_alignments_are_cosines_of_the_mean_gradients(case):
    gradients, wrong, size_c, size_w = case
    found = exact(TableBackend(gradients), batch_size=size_c + size_w, wrong=wrong)
    g, g_c, g_w = gradients.mean(axis=0), gradients[~wrong].mean(axis=0), gradients[wrong].mean(axis=0)
    for name, a, b in (("alignment_cw", g_c, g_w), ("alignment_ac", g, g_c), ("alignment_aw", g, g_w)):
        floor = 1e-3 * np.abs(gradients).max()
        if min(np.linalg.norm(a), np.linalg.norm(b)) > floor:
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert getattr(found, name) == pytest.approx(cosine, abs=1e-9), name


@given(two_populations(), st.booleans())
def test_equation_15_holds_for_the_stratified_ensemble(case, replacement):
    gradients, wrong, size_c, size_w = case
    found = exact(
        TableBackend(gradients), batch_size=size_c + size_w, wrong=wrong, replacement=replacement, ensemble="stratified"
    )
    g_c, g_w, rho = gradients[~wrong].mean(axis=0), gradients[wrong].mean(axis=0), wrong.mean()
    alignment = 0.0 if np.isnan(found.alignment_cw) else found.alignment_cw
    right = activity_from_populations(rho, found.activity_c, found.activity_w, g_c @ g_c, g_w @ g_w, alignment)
    assert abs(found.activity - right) <= 1e-12 * (gradients**2).sum(axis=1).max()


@given(two_populations())
def test_plain_minibatches_with_replacement_exceed_equation_15_by_the_gap_of_the_means(case):
    gradients, wrong, size_c, size_w = case
    backend, batch_size = TableBackend(gradients), size_c + size_w
    plain = exact(backend, batch_size=batch_size, wrong=wrong, replacement=True)
    gap = gradients[~wrong].mean(axis=0) - gradients[wrong].mean(axis=0)
    excess = plain_excess(wrong.mean(), gap @ gap, batch_size)
    difference = plain.activity - plain.in_ensemble("stratified").activity
    assert abs(difference - excess) <= 1e-12 * (gradients**2).sum(axis=1).max()


@given(two_populations(), st.randoms(use_true_random=False))
def test_order_and_duplication_of_samples_change_nothing(case, random):
    gradients, wrong, size_c, size_w = case
    batch_size = size_c + size_w
    shuffled = random.sample(range(len(wrong)), len(wrong))
    base = exact(TableBackend(gradients), batch_size=batch_size, wrong=wrong, replacement=True)
    moved = exact(TableBackend(gradients[shuffled]), batch_size=batch_size, wrong=wrong[shuffled], replacement=True)
    double = exact(
        TableBackend(np.tile(gradients, (2, 1))), batch_size=batch_size, wrong=np.tile(wrong, 2), replacement=True
    )
    scale = (gradients**2).sum(axis=1).max()
    for other in (moved, double):
        for name in ("activity", "directed_activity", "total_variance", "activity_c", "activity_w"):
            assert abs(getattr(other, name) - getattr(base, name)) <= 1e-12 * scale, name
        if min(base.directed_activity, base.directed_activity_c, base.directed_activity_w) > 1e-3 * scale:
            for name in ("projection_variance", "alignment_cw", "alignment_ac", "alignment_aw"):
                assert getattr(other, name) == pytest.approx(getattr(base, name), rel=1e-6, abs=1e-6), name


@given(tables(min_samples=2), st.floats(0.01, 100))
def test_scaling_the_loss_scales_activities_by_its_square_and_leaves_ratios(table, factor):
    gradients, batch_size = table
    base = exact(TableBackend(gradients), batch_size=batch_size)
    scaled = exact(TableBackend(factor * gradients), batch_size=batch_size)
    scale = factor**2 * (gradients**2).sum(axis=1).max()
    for name in ("activity", "directed_activity", "total_variance"):
        assert abs(getattr(scaled, name) - factor**2 * getattr(base, name)) <= 1e-12 * scale, name
    if base.directed_activity > 1e-3 * (gradients**2).sum(axis=1).max():
        assert scaled.projection_variance == pytest.approx(base.projection_variance, rel=1e-6, abs=1e-9)


@given(two_populations(), st.integers(1, 7))
def test_chunks_add_up(case, chunk_size):
    gradients, wrong, size_c, size_w = case
    whole = exact(TableBackend(gradients), batch_size=size_c + size_w, wrong=wrong).scalars()
    pieces = exact(TableBackend(gradients, chunk_size), batch_size=size_c + size_w, wrong=wrong).scalars()
    scale = 1 + (gradients**2).sum(axis=1).max()
    for name in ("activity", "directed_activity", "total_variance", "activity_c", "directed_activity_w", "loss"):
        assert abs(whole[name] - pieces[name]) <= 1e-12 * scale, name


@given(tables(min_samples=2), st.data())
def test_one_measurement_answers_for_every_batch_size(table, data):
    gradients, batch_size = table
    other = data.draw(st.integers(1, len(gradients)))
    direct = exact(TableBackend(gradients), batch_size=other)
    derived = exact(TableBackend(gradients), batch_size=batch_size).at_batch_size(other)
    assert derived.scalars() == pytest.approx(direct.scalars(), nan_ok=True)
    assert derived.batch_size == other


@pytest.mark.parametrize("replacement", [False, True])
def test_zero_gradients_leave_directions_undefined_and_nothing_else(replacement):
    found = exact(TableBackend(np.zeros((4, 3))), batch_size=2, wrong=np.arange(4) < 2, replacement=replacement)
    assert found.activity == found.directed_activity == found.total_variance == 0
    undefined = (
        "projection_variance mean_projection parallel_variance parallel_activity orthogonal_activity aligned_fraction "
        "gradient_noise_scale alignment_cw alignment_ac alignment_aw projection_variance_c projection_variance_w"
    )
    assert all(np.isnan(getattr(found, name)) for name in undefined.split())


def test_opposed_populations_leave_only_the_directions_of_their_sum_undefined():
    found = exact(TableBackend([[1.0], [-1.0]]), batch_size=1, wrong=np.array([False, True]))
    assert found.directed_activity == 0 and found.activity == 1 and found.alignment_cw == -1
    assert np.isnan([found.projection_variance, found.alignment_ac, found.alignment_aw]).all()


@given(tables())
def test_the_full_batch_has_no_noise(table):
    gradients, _ = table
    found = exact(TableBackend(gradients), batch_size=len(gradients))
    assert found.total_variance == 0 and found.activity == found.directed_activity
    assert found.directed_activity == 0 or found.projection_variance == 0


@pytest.mark.parametrize("all_wrong", [False, True])
def test_one_empty_population_is_undefined_and_the_other_is_everything(all_wrong):
    gradients = np.random.default_rng(0).normal(size=(5, 3))
    found = exact(TableBackend(gradients), batch_size=2, wrong=np.full(5, all_wrong))
    there, absent = ("w", "c") if all_wrong else ("c", "w")
    assert found.noise_fraction == float(all_wrong)
    assert getattr(found, f"activity_{there}") == pytest.approx(found.activity)
    assert getattr(found, f"directed_activity_{there}") == pytest.approx(found.directed_activity)
    assert np.isnan([getattr(found, f"activity_{absent}"), getattr(found, f"loss_{absent}"), found.alignment_cw]).all()
    assert found.in_ensemble("stratified").activity == pytest.approx(found.activity)


def test_without_a_mask_the_populations_are_unknown():
    found = exact(TableBackend(np.eye(3)), batch_size=1)
    assert np.isnan([found.noise_fraction, found.loss_c, found.activity_w, found.alignment_cw]).all()


def test_a_rare_wrong_label_gives_its_stratum_less_than_one_sample():
    wrong = np.arange(20) == 3
    gradients = np.random.default_rng(1).normal(size=(20, 2))
    found = exact(TableBackend(gradients), batch_size=5, wrong=wrong, ensemble="stratified")
    assert found.total_variance_w == 0  # one sample does not vary
    assert np.isfinite(found.activity) and found.activity >= found.directed_activity


def test_the_record_cannot_be_changed():
    found = exact(TableBackend(np.eye(3)), batch_size=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.activity = 0.0


@pytest.mark.parametrize("batch_size", [0, -1, 4, 1.5, float("nan")])
def test_impossible_batch_sizes_are_refused(batch_size):
    with pytest.raises(UsageError, match=r"batch_size = "):
        exact(TableBackend(np.eye(3)), batch_size=batch_size)


def test_masks_and_ensembles_are_checked():
    backend = TableBackend(np.eye(3))
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        exact(backend, batch_size=1, wrong=np.zeros(2, dtype=bool))
    with pytest.raises(InputError, match="dtype int"):
        exact(backend, batch_size=1, wrong=np.array([0, 1, 2]))
    with pytest.raises(UsageError, match="mask"):
        exact(backend, batch_size=1, ensemble="stratified")
    with pytest.raises(UsageError, match="plain, stratified"):
        exact(backend, batch_size=1, ensemble="strange")


@pytest.mark.parametrize("arguments", [(0, 1), (3, 0), (3, 4), (float("nan"), 1)])
def test_variance_factor_refuses_impossible_sizes(arguments):
    with pytest.raises(ValueError, match="= "):
        variance_factor(*arguments)
