"""Every preset shows what it says, at full size and seed 0."""

import pytest
from two_lengths import slow

from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.phases.find import find_phases
from sgdphases.estimators.phases.signatures import signatures
from sgdphases.sim.run.folder import RunFolder, start_folder
from sgdphases.sim.run.presets import PRESETS, preset
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.run.training import advance, prepare

SIGN = {"turning": True, "opposed": False}


@pytest.mark.parametrize(
    "name", [name if name in ("mixture-turning", "teacher-clean") else slow(name) for name in PRESETS]
)
def test_a_preset_shows_its_phases_and_its_sign(name, tmp_path):
    """Sampled alignments are left out: they change neither training nor what is looked at, and take time."""
    experiment = prepare(make_settings({**preset(name).settings, "alignment_batches": 0}))
    folder = RunFolder(tmp_path / "run")
    start_folder(folder, experiment.settings)
    for _ in advance(experiment, folder):
        pass
    trajectory = folder.read_trajectory()
    found = find_phases(trajectory)
    kind = name.split("-")[1]
    four = ["I", "II", "III", "IV"]
    assert [phase.name for phase in found.found] == (["fast learning", "exploration"] if kind == "clean" else four)
    assert not found.not_reached
    if kind in SIGN:
        third = [each.shown for each in signatures(trajectory, found) if each.claim == "R_cw > 0"]
        assert third == [SIGN[kind]]
        assert found.error_min < float(trajectory["test_error"][-1]) - 0.1  # the test error turns


def test_a_preset_and_its_opposite_differ_in_the_pace_only():
    for stem in ("mixture", "teacher"):
        one, other = (preset(f"{stem}-{kind}").settings for kind in SIGN)
        assert {name for name in one if one[name] != other[name]} == {"learning_rate", "epochs"}
        assert one["learning_rate"] > other["learning_rate"] and one["epochs"] < other["epochs"]


def test_settings_can_be_changed_without_changing_the_preset():
    settings = make_settings({**preset("mixture-turning").settings, "seed": 7})
    assert settings.seed == 7 and settings.train_size == preset("mixture-turning").settings["train_size"]
    assert "seed" not in preset("mixture-turning").settings
    assert all(each.summary for each in PRESETS.values())


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match=r"mixture-turnin'.*did you mean 'mixture-turning'") as caught:
        preset("mixture-turnin")
    assert all(name in str(caught.value) for name in PRESETS)
