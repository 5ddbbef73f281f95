"""Phases as a clock, and one segmentation for runs that differ in their seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.phases.phase_time import FOUR, TWO, combine_phases, epoch_at, phase_number, phase_time
from sgdphases.estimators.phases.records import Phase, Phases

NAN = float("nan")


@st.composite
def segmentations(draw, kind=FOUR, scale=1.0, skipping=True):
    """Phases with any boundaries in order; phase II may be skipped, and a run may end early."""
    last = draw(st.integers(1, len(kind)))
    names = list(kind[:last])
    if skipping and last > 2 and draw(st.booleans()):
        names.remove("II")
    lengths = [draw(st.floats(0.1, 10.0)) for _ in names]
    spans = draw(st.floats(0.05, 50.0)) * np.cumprod([1.0, *(1 + length for length in lengths)])
    bounds = [0.0, *(float(scale * span) for span in spans[: len(names)])]
    slack = draw(st.floats(0.5, 1.0))
    found = tuple(
        Phase(name, start, end, start * slack, start / slack)
        for name, start, end in zip(names, bounds[:-1], bounds[1:], strict=True)
    )
    missing = {name: draw(st.sampled_from(["too short", "too steep"])) for name in kind if name not in names}
    fitted = bounds[names.index(kind[-1])] if kind[-1] in names else NAN
    return Phases(
        found, missing, bounds[1], draw(st.floats(0, 1)), fitted, draw(st.floats(0, 1)) if fitted > 0 else NAN
    )


def scaled(phases, factor):
    times = ("start", "end", "earliest", "latest")
    found = tuple(Phase(p.name, *(factor * getattr(p, name) for name in times)) for p in phases.found)
    return Phases(
        found, phases.not_reached, factor * phases.t_min, phases.error_min, factor * phases.t_fit, phases.error_fit
    )


def numbers(phases):
    """Every number of a segmentation, in a fixed order."""
    spans = [value for p in phases.found for value in (p.start, p.end, p.earliest, p.latest)]
    return np.array([*spans, phases.t_min, phases.error_min, phases.t_fit, phases.error_fit])


def moments(phases, count=101):
    return np.linspace(0, phases.found[-1].end, count)


@given(segmentations())
def test_phase_k_lasts_from_k_to_k_plus_one(phases):
    for phase in phases.found:
        number = phase_number(phase.name)
        assert phase_time(phase.start, phases) == number
        assert phase_time(np.nextafter(phase.end, 0), phases) == pytest.approx(number + 1, abs=1e-9)
        epoch = np.linspace(phase.start, phase.end, 50)[:-1]
        tau = phase_time(epoch, phases)
        assert (tau >= number).all() and (tau <= number + 1).all() and (np.diff(tau) > 0).all()


@given(segmentations())
def test_within_a_phase_equal_factors_of_the_epoch_are_equal_steps(phases):
    first, *later = phases.found
    steps = np.diff(phase_time(np.linspace(first.start, first.end, 20)[:-1], phases))
    assert np.allclose(steps, steps[0])
    for phase in later:
        steps = np.diff(phase_time(np.geomspace(phase.start * (1 + 1e-9), phase.end * (1 - 1e-9), 20), phases))
        assert np.allclose(steps, steps[0], rtol=1e-5)


@given(segmentations(), st.floats(1e-6, 1e6))
def test_the_unit_of_time_does_not_matter(phases, factor):
    epoch = moments(phases)[:-1]  # the last may fall behind the end by rounding
    assert np.allclose(phase_time(factor * epoch, scaled(phases, factor)), phase_time(epoch, phases), atol=1e-6) or (
        _only_at_boundaries(phases, factor, epoch)
    )


def _only_at_boundaries(phases, factor, epoch):
    """Rounding may put a moment that is a boundary on its other side: across a jump, that moves tau by its height."""
    off = np.abs(phase_time(factor * epoch, scaled(phases, factor)) - phase_time(epoch, phases)) > 1e-6
    bounds = np.array([phase.start for phase in phases.found])
    return all(np.isclose(moment, bounds, rtol=1e-12).any() for moment in epoch[off])


@given(segmentations(), st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_clock_never_runs_backwards_and_can_be_read_backwards(phases, shares):
    epoch = np.sort(shares) * phases.found[-1].end
    tau = phase_time(epoch, phases)
    assert (np.diff(tau) >= 0).all()
    assert np.allclose(epoch_at(tau, phases), epoch, rtol=1e-6, atol=1e-12 * phases.found[-1].end)


@given(segmentations())
def test_outside_the_run_there_is_no_time(phases):
    end = phases.found[-1].end
    assert np.isnan(phase_time([-1.0, 1.01 * end], phases)).all()
    top = phase_number(phases.found[-1].name) + 1
    assert np.isnan(epoch_at([-0.1, top + 0.1], phases)).all()


def test_a_skipped_phase_keeps_its_number():
    phases = Phases((Phase("I", 0, 10, 0, 0), Phase("III", 10, 100, 9, 11)), {"II": "", "IV": ""})
    assert phase_time([0, 5, 9.99, 10, np.sqrt(1000), 100], phases) == pytest.approx([0, 0.5, 0.999, 2, 2.5, 3])
    assert epoch_at([1.0, 1.3, 1.9, 2.0], phases) == pytest.approx([10, 10, 10, 10])


def test_a_phase_that_begins_with_the_last_checkpoint_takes_no_time():
    phases = Phases((Phase("I", 0, 10, 0, 0), Phase("II", 10, 10, 9, 10)), {})
    assert phase_time([0, 10], phases).tolist() == [0, 1]
    assert epoch_at([0.5, 1.0, 1.5], phases).tolist() == [5, 10, 10]


def test_two_phases_have_the_first_two_numbers():
    phases = Phases((Phase("fast learning", 0, 4, 0, 0), Phase("exploration", 4, 64, 3, 5)), {})
    assert phase_time([2, 4, 16, 64], phases) == pytest.approx([0.5, 1, 1.5, 2])


@given(st.sampled_from([FOUR, TWO]).flatmap(lambda kind: segmentations(kind)))
def test_one_run_gives_itself_back(phases):
    assert combine_phases([phases]) == phases


@given(st.sampled_from([FOUR, TWO]).flatmap(lambda kind: segmentations(kind)), st.integers(2, 6))
def test_equal_runs_give_what_they_are(phases, count):
    both = combine_phases([phases] * count)
    assert [p.name for p in both.found] == [p.name for p in phases.found]
    assert np.allclose(numbers(both), numbers(phases), rtol=1e-12, equal_nan=True)
    assert set(both.not_reached) == set(phases.not_reached)


@given(st.lists(segmentations(), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_runs_does_not_matter(found, random):
    other = list(found)
    random.shuffle(other)
    one, two = combine_phases(found), combine_phases(other)
    assert one.not_reached == two.not_reached and [p.name for p in one.found] == [p.name for p in two.found]
    assert np.array_equal(numbers(one), numbers(two), equal_nan=True)


@given(st.lists(segmentations(), min_size=2, max_size=8))
def test_boundaries_are_in_order_and_within_their_bounds(found):
    both = combine_phases(found)
    edges = [both.found[0].start, *(p.end for p in both.found)]
    assert edges == sorted(edges)
    for before, after in zip(both.found, both.found[1:], strict=False):
        assert before.end == after.start
    assert all(p.earliest <= p.start <= p.latest for p in both.found)


@given(st.lists(segmentations(), min_size=2, max_size=8), st.floats(1e-4, 1e4))
def test_the_unit_of_time_does_not_matter_to_many_runs(found, factor):
    one, other = combine_phases(found), combine_phases([scaled(each, factor) for each in found])
    assert np.allclose(numbers(scaled(one, factor)), numbers(other), rtol=1e-9, equal_nan=True)
    assert one.not_reached == other.not_reached


@given(st.lists(segmentations(), min_size=2, max_size=9))
def test_a_phase_counts_if_half_of_the_runs_reached_it(found):
    both = combine_phases(found)
    for name in FOUR:
        reached = sum(name in [p.name for p in each.found] for each in found)
        assert (name in [p.name for p in both.found]) == (2 * reached >= len(found))
        assert (name in both.not_reached) == (2 * reached < len(found))
        if name in both.not_reached:
            assert both.not_reached[name].startswith(f"reached in {reached} of {len(found)} runs")


@given(st.lists(segmentations(skipping=False), min_size=2, max_size=9))
def test_a_boundary_is_the_median_of_the_logarithms(found):
    """Phase II begins only in runs that reach it; no boundary before it but 0, so order asks nothing of it."""
    starts = [p.start for each in found for p in each.found if p.name == "II"]
    both = [p for p in combine_phases(found).found if p.name == "II"]
    if both:
        assert both[0].start == pytest.approx(np.exp(np.median(np.log(starts))))
        low, high = np.exp(np.quantile(np.log(starts), [0.1, 0.9]))
        assert both[0].earliest <= low * (1 + 1e-9) and both[0].latest >= high * (1 - 1e-9)


def test_bounds_hold_the_spread_of_runs_and_the_doubt_of_each():
    def run(start, earliest, latest):
        return Phases((Phase("I", 0, start, 0, 0), Phase("II", start, 100, earliest, latest)), {})

    apart = combine_phases([run(start, start, start) for start in (1.0, 4.0, 16.0)]).found[1]
    assert apart.start == 4 and 1 < apart.earliest < 2 and 8 < apart.latest < 16
    vague = combine_phases([run(4.0, 2.0, 9.0)] * 3).found[1]
    assert (vague.earliest, vague.start, vague.latest) == (2, 4, 9)


def test_quick_runs_that_reach_a_later_phase_do_not_put_it_first():
    quick = Phases((Phase("I", 0, 1, 0, 0), Phase("II", 1, 2, 1, 1), Phase("III", 2, 50, 2, 2)), {"IV": "short"})
    slow = Phases((Phase("I", 0, 30, 0, 0), Phase("II", 30, 50, 30, 30)), {"III": "short", "IV": "short"})
    both = combine_phases([quick, slow, quick, slow, slow, quick])
    assert [p.name for p in both.found] == ["I", "II", "III"]
    assert both.found[2].start == both.found[1].start == pytest.approx(np.sqrt(30))


def test_times_and_errors_are_medians_of_the_runs_that_know_them():
    def run(t_min, error_min, t_fit, error_fit):
        return Phases((Phase("I", 0, 100, 0, 0),), {}, t_min, error_min, t_fit, error_fit)

    both = combine_phases([run(1, 0.1, NAN, NAN), run(100, 0.2, NAN, NAN), run(10, 0.6, 50, 0.7)])
    assert (both.t_min, both.error_min) == (10, 0.2) and np.isnan([both.t_fit, both.error_fit]).all()


def test_runs_of_two_and_of_four_phases_do_not_mix():
    two = Phases((Phase("fast learning", 0, 4, 0, 0),), {})
    four = Phases((Phase("I", 0, 4, 0, 0),), {})
    with pytest.raises(UsageError, match=r"the two phases .*\(1 of 3 runs\), others the four"):
        combine_phases([four, two, four])
    with pytest.raises(UsageError, match="no runs"):
        combine_phases([])


def test_runs_without_phases_count_among_those_that_reached_none():
    four, none = Phases((Phase("I", 0, 4, 0, 0),), {}), Phases((), {"I": "the test error never falls"})
    assert combine_phases([none, none]).found == ()
    assert [p.name for p in combine_phases([four, none]).found] == ["I"]
    reason = combine_phases([four, none, none]).not_reached["I"]
    assert reason == "reached in 1 of 3 runs; the test error never falls"
