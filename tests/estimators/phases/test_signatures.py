"""The paper's signatures with their intervals: decided, or not."""

import json

import numpy as np
import pytest
from trajectories import trajectory

from sgdphases.estimators.phases.find import find_phases
from sgdphases.estimators.phases.records import Phase, Phases
from sgdphases.estimators.phases.signatures import drawn_spans, interval, signatures


def test_an_interval_that_holds_the_threshold_is_undecided():
    data = trajectory()
    phases = find_phases(data)
    third = next(phase for phase in phases.found if phase.name == "III")
    inside = (data["epoch"] >= third.start) & (data["epoch"] <= third.end)
    verdicts = {}
    for name, scatter in (("yes", 0.05), ("open", 0.9)):
        noise = scatter * np.random.default_rng(4).standard_normal(len(data["epoch"]))
        data["alignment_cw"][:] = np.where(inside, 0.15 + noise, -0.9)
        (verdicts[name],) = [each for each in signatures(data, phases) if each.phase == "III"]
    assert verdicts["yes"].shown is True and 0 < verdicts["yes"].low < 0.15 < verdicts["yes"].high
    assert verdicts["open"].shown is None and verdicts["open"].low < 0 < verdicts["open"].high
    json.dumps([each.to_dict() for each in verdicts.values()], allow_nan=False)


def own(medians):
    return medians["alignment"]


@pytest.mark.parametrize("shape", ["flat", "trend", "hump"])
@pytest.mark.parametrize(("n", "most"), [(6, 0.1), (12, 0.05), (30, 0.05)])
def test_intervals_hold_the_median_of_the_curve_about_as_often_as_they_say(n, most, shape):
    """A curve with scatter at every checkpoint: missed in 5 % (10 % of six), within three standard errors."""
    place = np.linspace(0, 1, n)
    curve = {"flat": 0 * place, "trend": 8 * place - 3, "hump": 6 * np.sin(np.pi * place)}[shape]
    rng, missed, draws, inside = np.random.default_rng(6), 0, 400, np.ones((401, n), bool)
    for _ in range(draws):
        low, high = interval({"alignment": curve + rng.standard_normal(n)}, own, inside)
        missed += not low <= np.median(curve) <= high
    assert missed / draws <= most + 3 * np.sqrt(most / draws)


def test_the_bounds_of_a_phase_widen_its_intervals_and_one_checkpoint_has_none():
    epoch = np.concatenate([[0.0], np.geomspace(0.1, 100, 60)])
    values = {"alignment": np.log10(np.maximum(epoch, 0.01))}
    sharp, blurred = (Phase("III", 1.0, 10.0, 1.0, 1.0), Phase("III", 1.0, 10.0, 0.5, 3.0))
    after = (Phase("IV", 10.0, 100.0, 10.0, 10.0), Phase("IV", 10.0, 100.0, 8.0, 30.0))
    a, b = interval(values, own, drawn_spans(epoch, sharp, after[0]))
    c, d = interval(values, own, drawn_spans(epoch, blurred, after[1]))
    assert b - a < 0.05 and 0.4 < a < b < 0.6  # a trend is no scatter
    assert c < a < b < d and d - c > 0.3
    one = drawn_spans(epoch, Phase("III", 1.0, 1.0 + 1e-9, 1.0, 1.0), None)
    assert np.isnan(interval(values, own, one)).all()


def test_without_known_wrong_labels_their_signatures_cannot_be_told():
    data = trajectory()
    phases = find_phases(data)
    data["noise_fraction"][:] = 0.0  # then the clean population's numbers are those of all samples
    assert {each.shown for each in signatures(data, phases)} == {None}


def test_a_run_without_phases_has_no_signatures():
    assert signatures(trajectory(), Phases((), {"any phase": "why"})) == []
