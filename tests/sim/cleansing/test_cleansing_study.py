"""Cleansing held against the truth: the study on disk, the claims judged on records that are known, the picture."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import typer
import xarray as xr
from typer.testing import CliRunner

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.paper.cleansing_claims import cleansing_claims, gap_epoch, phase_two
from sgdphases.paper.cleansing_figure import cleansing
from sgdphases.paper.command import reproduce
from sgdphases.paper.experiments import QUICK, finished
from sgdphases.sim.cleansing import study as cleansing_study
from sgdphases.sim.cleansing.study import (
    ALONG,
    CLEANSING,
    EDGES,
    SCALARS,
    calibration_error,
    is_studied,
    measure_cleansing,
    read_study,
    study_file,
    study_seconds,
)
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.sweep.folder import SweepFolder, start_sweep
from sgdphases.sim.sweep.plan import plan_sweep
from sgdphases.sim.sweep.run import run_sweep

SMALL = dict(dataset="digits", train_size=300, hidden=(20,), epochs=60, checkpoints=5, batch_size=20)
PLAN = plan_sweep(SMALL, {"noise_fraction": (0.0, 0.4), "seed": (0, 1)})
EPOCH = np.concatenate([[0.0], np.geomspace(1, 100, 40)])


def made_up(rho, **changes):
    """A record as the paper, and we, would have it; phases II, III and IV begin at about 3, 21 and 69 epochs."""
    fast = np.clip(np.log(np.maximum(EPOCH, 0.5) / 0.5) / np.log(8), 0, 1)  # done at epoch 4
    late = np.clip(np.log(np.maximum(EPOCH, 20) / 20) / np.log(4), 0, 1)  # from epoch 20 to 80
    along = dict(
        train_error=0.9 - (1 - rho) * 0.9 * fast - rho * 0.9 * late, test_error=0.9 - 0.8 * fast + 0.4 * rho * late,
        error_c=0.9 - 0.9 * fast, error_w=0.95 - 0.95 * late, loss_c=2.3 - 1.9 * fast - 0.36 * late,
        loss_w=2.3 + 0.5 * fast - 2.75 * late, separation=0.5 + 0.49 * fast - 0.45 * late, fitted_share=rho,
        mean_c=2.2 - 1.9 * fast - 0.26 * late, mean_w=2.4 + 0.5 * fast - 2.75 * late, deviation_c=0.3, deviation_w=0.4,
        fit_distance=0.02,
    )  # fmt: skip
    scalars = dict(
        wrong_share=0.9 * rho, t_clean=float(EPOCH[20]), roc_area=0.99, flagged=rho, accuracy_n=0.9 - 0.4 * rho,
        accuracy_p=0.9, accuracy_stop=0.895, accuracy_continue=0.895, cleansing_gain_continue=0.9,
        cleansing_gain_stop=0.88, cleansing_gain_restart=0.89, between_thresholds=0.001,
    )  # fmt: skip
    along |= {name: value for name, value in changes.items() if name in ALONG}
    scalars |= {name: value for name, value in changes.items() if name in SCALARS}
    if rho == 0:
        along |= dict.fromkeys(("error_w", "loss_w", "separation", "mean_c", "mean_w"), np.nan)
    table = {name: ("step", np.broadcast_to(along.get(name, np.nan), EPOCH.shape)) for name in ALONG}
    table |= {name: ((), float(scalars.get(name, np.nan))) for name in SCALARS}
    counts = np.tile(np.arange(len(EDGES) - 1, 0, -1), (len(EPOCH), 1))
    table |= {"count_c": (("step", "bin"), counts), "count_w": (("step", "bin"), counts[:, ::-1])}
    middles = ("bin", (EDGES[1:] + EDGES[:-1]) / 2)
    return xr.Dataset(table, {"epoch": ("step", EPOCH), "step": ("step", 100 * EPOCH), "loss": middles})


def as_claimed(**changes):
    return {rho: [made_up(rho, **changes)] * 5 for rho in (0.0, 0.2, 0.5, 0.7, 0.8, 0.9)}


def test_records_as_the_paper_has_them_hold():
    claims = cleansing_claims(as_claimed())
    assert len(claims) == 18 and [claim.claim for claim in claims if not claim.holds] == []
    assert phase_two(made_up(0.5)) == pytest.approx((3.2, 24), rel=0.2) and phase_two(made_up(0.0)) is None
    assert 3 < gap_epoch(made_up(0.5)) < 24


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"separation": 0.9}, ["alike at the start", "indistinguishable again"]),
        ({"loss_w": 2.3 + EPOCH / 100}, ["separation L_w", "both lie near zero", "their means agree"]),
        ({"fit_distance": 0.2}, ["fit the losses well"]),
        ({"mean_w": 2.3 + EPOCH / 100}, ["their means agree", "gap of the fitted means"]),
        ({"between_thresholds": 0.1}, ["both choices of l_c"]),
        ({"cleansing_gain_stop": 0.5}, ["stopping at t_c"]),
        ({"cleansing_gain_continue": 0.7}, ["stopping at t_c", "0.85 up to ρ = 0.5", "0.75 up to ρ = 0.7"]),
        ({"t_clean": 50.0}, ["from the ranks of the losses"]),
        ({"accuracy_stop": 0.8}, ["near the lowest"]),
        ({"roc_area": 0.95}, ["ρ = 0.5: losses around t_c"]),
        ({"flagged": 0.03}, ["hardly a label is flagged"]),
    ],
)
def test_what_the_records_do_not_show_does_not_hold(changes, broken):
    claims = cleansing_claims(as_claimed(**changes))
    failing = [claim.claim for claim in claims if claim.holds is False]
    assert len(failing) == len(broken) and all(any(part in claim for claim in failing) for part in broken), failing


def test_one_bad_noise_fraction_is_named():
    records = as_claimed()
    records[0.7] = [made_up(0.7, cleansing_gain_continue=0.3)] * 3
    (claim,) = [claim for claim in cleansing_claims(records) if claim.claim == "Q exceeds 0.5 up to ρ = 0.8"]
    assert claim.holds is False and "least 0.3, at ρ = 0.7" in claim.ours and claim.values == (0.9, 0.9, 0.3, 0.9)


def test_nothing_is_said_of_what_was_not_measured():
    nothing = cleansing_claims({})
    assert all(claim.holds is None and claim.ours == "" for claim in nothing)
    some = cleansing_claims({0.0: [made_up(0.0)] * 2, 0.2: [made_up(0.2)] * 2})
    assert {claim.claim for claim in some if claim.holds is not None} == {
        "t_c, where the gap of the fitted means is largest, lies in phase II",
        "(ours) t_c, from the ranks of the losses alone, lies in phase II",
        "(ours) the test error at t_c is near the lowest of the run (within 0.05)",
        "(ours) ρ = 0: hardly a label is flagged (under 2 %)",
    }
    json.dumps([claim.to_dict() for claim in [*nothing, *some]], allow_nan=False)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = SweepFolder(tmp_path_factory.mktemp("study") / "cleansing")
    start_sweep(folder, PLAN)
    assert [outcome.failure for outcome in run_sweep(folder, PLAN, workers=1, job=CLEANSING)] == [None] * 4
    return folder


def contents(folder):
    return {path.relative_to(folder.path): path.read_bytes() for path in folder.path.rglob("cleansing.nc")}


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.path.rglob("cleansing.nc")}


def test_numbers_of_a_record_agree_with_one_another(study):
    """Accuracies come from weights that cleansing has kept, errors from training through them again."""
    for place, record in finished(study, PLAN, CLEANSING):
        values = {name: float(record[name]) for name in SCALARS}
        assert values["accuracy_n"] == pytest.approx(1 - float(record["test_error"][-1]), abs=1e-12)
        n_wrong, n_right = int(record["count_w"][0].sum()), int(record["count_c"][0].sum())
        assert n_wrong + n_right == 300 and n_wrong / 300 == pytest.approx(values["wrong_share"])
        assert (record["epoch"].to_numpy()[[0, 1, -1]] == (0, 1, 60)).all()
        if place["noise_fraction"] == 0:
            assert np.isnan(values["roc_area"]) and values["accuracy_p"] == values["accuracy_n"]
            continue
        there = record["test_error"].to_numpy()[record["epoch"].to_numpy() == values["t_clean"]]
        assert values["accuracy_stop"] == pytest.approx(1 - float(there[0]), abs=1e-12)
        share = values["wrong_share"]
        removed = share * values["wrong_removed"] + (1 - share) * (1 - values["right_kept"])
        assert values["flagged"] == pytest.approx(removed) and values["roc_area"] > 0.8
        middle = (record["count_w"] * record["loss"]).sum("bin") / n_wrong
        np.testing.assert_allclose(middle, record["loss_w"], atol=0.06)  # bins are 0.1 wide


def test_an_interrupted_study_ends_in_the_same_bytes(study, tmp_path, monkeypatch):
    folder, made = SweepFolder(tmp_path / "again"), []

    def measure(settings):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(settings)
        return measure_cleansing(settings)

    start_sweep(folder, PLAN)
    monkeypatch.setattr(cleansing_study, "measure_cleansing", measure)
    with pytest.raises(KeyboardInterrupt):
        list(run_sweep(folder, PLAN, workers=1, job=CLEANSING))
    kept = times(folder)
    assert len(kept) == 2 and not list(folder.path.rglob("*.part*"))
    monkeypatch.undo()
    ended = [outcome.member.name for outcome in run_sweep(folder, PLAN, workers=1, job=CLEANSING)]
    assert len(ended) == 2 and times(folder).items() >= kept.items() and contents(folder) == contents(study)
    assert list(run_sweep(folder, PLAN, workers=1, job=CLEANSING)) == []


def test_damaged_and_foreign_files_are_measured_again(study, tmp_path, monkeypatch):
    whole, asked = contents(study), []
    members = PLAN.members()
    damaged, foreign, stray, intact = (study.member(member) for member in members)
    study_file(damaged).write_bytes(whole[study_file(damaged).relative_to(study.path)][:5000])
    study_file(foreign).write_bytes(study_file(intact).read_bytes())
    made_up(0.4).to_netcdf(study_file(stray), engine="h5netcdf")
    with pytest.raises(InputError, match="no usable record"):
        read_study(damaged)
    with pytest.raises(InputError, match=r"no record of a cleansing \(no settings\)"):
        read_study(stray)
    assert [is_studied(study.member(m), m.settings) for m in members] == [False, False, False, True]
    before = study_file(intact).stat().st_mtime_ns
    monkeypatch.setattr(cleansing_study, "measure_cleansing", lambda s: asked.append(s) or measure_cleansing(s))
    assert all(outcome.failure is None for outcome in run_sweep(study, PLAN, workers=1, job=CLEANSING))
    assert asked == [member.settings for member in members[:3]] and contents(study) == whole
    assert study_file(intact).stat().st_mtime_ns == before


def test_a_member_of_other_settings_is_left_alone(study, tmp_path):
    folder, (first, *_, last) = SweepFolder(tmp_path / "mixed"), PLAN.members()
    start_sweep(folder, PLAN)
    place = folder.member(first)
    place.path.mkdir(parents=True)
    for name in ("config.toml", "cleansing.nc"):
        (place.path / name).write_bytes((study.member(last).path / name).read_bytes())
    outcome = next(run_sweep(folder, PLAN, workers=1, job=CLEANSING))
    assert "holds a member with other settings" in outcome.failure and str(place.path) in outcome.failure
    assert study_file(place).read_bytes() == study_file(study.member(last)).read_bytes()


def test_another_plan_is_refused(study):
    with pytest.raises(UsageError, match="holds another sweep"):
        start_sweep(study, plan_sweep(SMALL, {"noise_fraction": (0.0, 0.4), "seed": (0,)}))
    with pytest.raises(UsageError, match="a cluster only trains"):
        list(run_sweep(study, PLAN, dask="tcp://nowhere:1", job=CLEANSING))


def test_failures_are_reported_and_the_others_end(tmp_path):
    plan = plan_sweep({**SMALL, "epochs": 10}, {"learning_rate": (1e30, 0.1), "noise_fraction": (0.4,)})
    folder = SweepFolder(tmp_path / "some")
    start_sweep(folder, plan)
    failures = [outcome.failure for outcome in run_sweep(folder, plan, workers=1, job=CLEANSING)]
    assert "diverged" in failures[0] and failures[1] is None
    assert "diverged" in folder.read_failures().popitem()[1] and len(finished(folder, plan, CLEANSING)) == 1


def test_other_processes_can_do_it():
    assert pickle.loads(pickle.dumps(CLEANSING)) == CLEANSING


def test_only_classes_can_be_cleansed(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 2))
    y = x.sum(axis=1)
    np.savez(tmp_path / "curve.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(UsageError, match="classes"):
        measure_cleansing(make_settings(dict(dataset=str(tmp_path / "curve.npz"))))


def test_calibration_is_the_mean_miss():
    wrong = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 0], bool)
    assert calibration_error(wrong, np.full(10, 0.2)) == pytest.approx(0)
    assert calibration_error(wrong, wrong.astype(float)) == 0 and calibration_error(wrong, 1.0 - wrong) == 1


def test_time_is_estimated_beforehand():
    settings = [member.settings for member in PLAN.members()]
    one, all_of_them = study_seconds(settings[:1]), study_seconds(settings * 50)
    assert 0 < one < all_of_them


@pytest.mark.parametrize("rhos", [(0.0,), (0.4,), (0.0, 0.5), (0.2, 0.5, 0.8)])
def test_the_figure_draws_from_few_members(tmp_path, rhos):
    figure = cleansing({rho: [made_up(rho)] * 2 for rho in rhos})
    figure.savefig(tmp_path / "figure.png", dpi=40)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    panels = {axes.get_title().split("  ")[0]: axes for axes in figure.axes}
    assert len(figure.axes) == 8 and {"D", "E"} <= set(panels)
    (middle, *_) = [line for line in panels["D"].get_lines() if "no cleansing" in str(line.get_label())]
    np.testing.assert_allclose(middle.get_xydata(), [(rho, 0.9 - 0.4 * rho) for rho in rhos])


@pytest.mark.usefixtures("pictures")
def test_the_command_reports_failures_and_goes_on(tmp_path, mnist_folder, monkeypatch):
    """With records made up; one member fails at first."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(reproduce)
    broken, asked = [True], []

    def measure(settings):
        asked.append(settings)
        if settings.noise_fraction == 0.5 and settings.seed == 1 and broken:
            raise InputError("the disk is on fire.")
        return made_up(settings.noise_fraction).assign_attrs(settings=settings.model_dump_json())

    monkeypatch.setattr(cleansing_study, "measure_cleansing", measure)
    out = tmp_path / "out"
    arguments = ["fig6", "--quick", "--data-dir", str(mnist_folder), "--out", str(out), "--workers", "1"]
    arguments += ["--device", "cpu"]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 1 and "the disk is on fire" in first.output and "1 runs failed" in first.output
    n_members = len(QUICK.cleansing_fractions) * QUICK.seeds
    assert len(asked) == n_members and {(s.backend, s.device) for s in asked} == {("torch", "cpu")}
    assert (out / "figures" / "figure-6.png").is_file()
    broken.clear()
    second = CliRunner().invoke(app, arguments)
    assert second.exit_code == 0 and len(asked) == n_members + 1, second.output
    assert f"{n_members - 1} of {n_members} members ended before" in second.output
    table = json.loads((out / "claims.json").read_text(encoding="utf-8"))
    assert {claim["figure"] for claim in table["claims"]} == {"fig6"}
    other = CliRunner().invoke(app, [*arguments, "--seeds", "1"])
    assert isinstance(other.exception, UsageError) and "other settings" in str(other.exception)
    assert Path(out / "reproduction.html").read_text(encoding="utf-8").count("data:image/png;base64,") == 1
