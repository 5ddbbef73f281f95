"""The paper's claims judged on trajectories whose answers are known, and the whole command on a small scale."""

import json
from dataclasses import replace

import numpy as np
import pytest
import typer
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.phases.find import find_phases
from sgdphases.paper.claims import median_interval, share_interval
from sgdphases.paper.cleansing_claims import HALF
from sgdphases.paper.command import reproduce
from sgdphases.paper.experiments import FULL, QUICK, SWEEPS, data_folder, paper_sweeps
from sgdphases.paper.page import FIGURES
from sgdphases.paper.phase_claims import (
    activity_claims,
    boundary_distance,
    fraction_claims,
    line,
    rank_correlation,
    solved_from,
    two_phase_claims,
)
from sgdphases.paper.spectrum_claims import largest_gap, phase_spectrum, phase_spectrum_claims, spectrum_claims
from sgdphases.sim.sweep.results import places

EPOCH = np.concatenate([[0.0], np.geomspace(0.01, 300, 90)])


def trajectory(**variables):
    """A trajectory with the variables given, against `EPOCH`; what is not given is NaN, but for the loss."""
    names = ("train_error", "test_error", "error_c", "error_w", "activity", "activity_c", "activity_w",
             "directed_activity", "directed_activity_c", "directed_activity_w", "alignment", "alignment_cw",
             "projection_variance", "noise_fraction")  # fmt: skip
    table = {name: ("step", np.full(len(EPOCH), np.nan)) for name in names}
    table["loss"] = ("step", np.ones(len(EPOCH)))  # where there is one, there was a measurement
    table |= {name: ("step", np.broadcast_to(values, EPOCH.shape)) for name, values in variables.items()}
    return xr.Dataset(table, {"epoch": ("step", EPOCH)})


def ramp(start, end, high, low):
    """From ``high`` to ``low`` between two epochs, linear in the logarithm of the epoch."""
    with np.errstate(divide="ignore"):
        share = np.clip((np.log(EPOCH) - np.log(start)) / np.log(end / start), 0, 1)
    return high + (low - high) * share


def by_name(claims, part):
    (found,) = [claim for claim in claims if part in claim.claim]
    return found


def two_phases(late=(0.01, 0.0, 100.0), error=0.0):
    """Fast learning until epoch 5, error zero from 10 on; activity, R and sigma before and after epoch 8."""
    before = (1.0, 0.3, 1.0)
    parts = [np.where(EPOCH < 8, a, b) for a, b in zip(before, late, strict=True)]
    return trajectory(
        train_error=ramp(1, 10, 0.9, error), test_error=ramp(1, 10, 0.9, 0.05), activity=parts[0],
        alignment=parts[1], projection_variance=parts[2],
    )  # fmt: skip


def noisy(rho, t_fit=100.0, low=0.05, high=0.5, **more):
    """Test error at its lowest at epoch 5; wrong labels learnt to 5 % of their plateau at ``t_fit``."""
    start = t_fit / 4
    end = start * np.exp(np.log(t_fit / start) / 0.95)
    test = np.where(EPOCH < start, ramp(0.5, 5, 0.9, low), ramp(start, end, low, high))
    error_w, error_c = ramp(start, end, 0.9, 0.0), ramp(0.5, 5, 0.9, 0.0)
    train = (1 - rho) * error_c + rho * error_w
    if rho == 0:
        return trajectory(train_error=error_c, test_error=ramp(0.5, 5, 0.9, low), **more)
    return trajectory(train_error=train, test_error=test, error_c=error_c, error_w=error_w, noise_fraction=rho, **more)


def paper_like(growth=2.0):
    """Errors and times as the paper has them: t_f growing by a factor, eps_f linear, eps_m flat up to 0.6."""
    found = {}
    for rho in (0.0, 0.2, 0.4, 0.6, 0.8, 0.9):
        high = 0.05 + 0.9 * rho
        low = 0.05 if rho <= 0.6 else high - (0.05 if rho > 0.85 else 0.3)
        found[rho] = [noisy(rho, 60.0 * growth ** (rho / 0.8), low, high)] * 5
    return found


def test_two_phases_as_the_paper_has_them_hold():
    claims = two_phase_claims("net", [two_phases()] * 3)
    assert len(claims) == 6 and all(claim.holds for claim in claims)
    assert all(claim.claim.startswith("net: ") and "3 of 3 runs" in claim.ours for claim in claims)


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"late": (0.01, 0.3, 100.0)}, ["R is about 0"]),
        ({"late": (0.01, 0.0, 1.0)}, ["σ_λ² ≫ 1"]),
        ({"late": (1.0, 0.0, 100.0)}, ["A is much smaller"]),
        ({"late": (1.0, 0.3, 1.0)}, ["R is about 0", "σ_λ² ≫ 1", "A is much smaller"]),
    ],
)
def test_what_a_run_does_not_show_does_not_hold(changes, broken):
    claims = two_phase_claims("net", [two_phases(**changes)] * 5)
    assert [claim.holds for claim in claims].count(False) == len(broken)
    assert all(by_name(claims, part).holds is False for part in broken)


def test_without_a_solution_or_a_run_nothing_is_said_of_it():
    claims = two_phase_claims("net", [two_phases(error=0.02)] * 5)
    assert by_name(claims, "the training error reaches").holds is False
    assert all(by_name(claims, part).holds is None for part in ("R is about 0", "σ_λ² ≫ 1", "A is much smaller"))
    nothing = [
        *two_phase_claims("net", []), *fraction_claims({}), *activity_claims([]), *spectrum_claims([], 9),
        *phase_spectrum_claims([], 9),
    ]  # fmt: skip
    assert all(claim.holds is None and claim.ours == "" for claim in nothing)
    json.dumps([claim.to_dict() for claim in [*claims, *nothing]], allow_nan=False)


def about_zero(*late):
    runs = [two_phases(late=(0.01, r, 100.0)) for r in late]
    return by_name(two_phase_claims("net", runs), "R is about 0")


def test_the_verdict_is_that_of_the_whole_interval():
    claim = about_zero(0.0, 0.01, 0.02, 0.3, 0.02)
    assert claim.holds is None and claim.values == (0.0, 0.01, 0.02, 0.3, 0.02) and (claim.low, claim.high) == (0, 0.3)
    assert claim.ours == "0.02 (0 to 0.3), 4 of 5 runs"
    assert about_zero(0.0, 0.01, 0.02, 0.03, 0.02).holds is True
    assert about_zero(0.1, 0.2, 0.2, 0.3, 0.2).holds is False
    assert about_zero(-0.2, -0.1, 0.1, 0.2, 0.1).holds is None  # on both sides, none within
    assert about_zero(0.01).holds is None and np.isnan(about_zero(0.01).low)  # one seed has no spread
    assert about_zero(0.01, 0.011).holds is True and about_zero(0.01, 0.03).holds is None  # two need to agree


@pytest.mark.parametrize("n", [2, 4, 5, 8, 20, 40])
def test_the_interval_of_a_median_holds_it_as_often_as_it_says(n):
    """95 % on either side, within three standard errors of 2,000 draws."""
    rng = np.random.default_rng(n)
    intervals = np.array([median_interval(rng.standard_normal(n)) for _ in range(2000)])
    allowed = 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)
    assert (intervals[:, 0] > 0).mean() <= allowed and (intervals[:, 1] < 0).mean() <= allowed


def test_a_share_of_few_runs_is_not_more_than_half():
    assert (
        share_interval(5, 5)[0] == pytest.approx(0.05**0.2) and share_interval(4, 5)[0] < 0.5 < share_interval(4, 5)[1]
    )
    assert share_interval(37, 40)[0] > 0.8 and share_interval(0, 5)[1] < 0.5


@given(st.integers(1, 80), st.lists(st.integers(0, 90), max_size=2))
def test_the_solution_begins_once_nine_of_ten_checkpoints_are_there(place, bumps):
    error = np.where(np.arange(len(EPOCH)) < place, 0.5, 0.0)
    error[[bump for bump in bumps if bump > place]] = 0.01
    found = solved_from(trajectory(train_error=error))
    below = error <= 0.001
    if found is not None:
        assert below[found] and below[found:].mean() >= 0.9
        assert not any(below[k] and below[k:].mean() >= 0.9 for k in range(found))
    if not bumps:
        assert found == place


def test_time_scales_and_errors_as_the_paper_has_them_hold():
    claims = fraction_claims(paper_like())
    assert all(claim.holds for claim in claims if "four phases" not in claim.claim)
    times = by_name(claims, "t_f grows")
    np.testing.assert_allclose(times.values, [60 * 2 ** (rho / 0.8) for rho in (0.2, 0.4, 0.6, 0.8)], rtol=0.05)
    # when 5 % of the wrong labels are left, the test error has risen by 95 % of its way
    ends = [low + 0.95 * (0.05 + 0.9 * rho - low) for rho, low in ((0.2, 0.05), (0.4, 0.05), (0.6, 0.05))]
    np.testing.assert_allclose(by_name(claims, "ε_f is nearly linear").values[1:4], ends, atol=0.02)


def test_half_of_the_labels_wrong_shows_four_phases():
    claims = fraction_claims({0.5: [noisy(0.5)] * 5})
    assert by_name(claims, "four phases").holds and by_name(claims, "four phases").ours == "5 of 5 runs"
    plain = trajectory(train_error=ramp(1, 10, 0.9, 0.0), test_error=ramp(1, 10, 0.9, 0.1))
    assert by_name(fraction_claims({0.5: [plain] * 5}), "four phases").holds is False


def test_phases_found_blindly_are_held_against_those_that_are_known():
    known = noisy(0.5)
    assert boundary_distance(known, find_phases(known)) < 0.15
    flat = noisy(0.5, low=0.1, high=0.1)  # the test error never rises: nothing but the mask shows phase III
    assert boundary_distance(flat, find_phases(flat)) == float("inf")
    assert by_name(fraction_claims({0.5: [flat] * 5}), "(ours) II, III and IV").holds is False


def test_a_fitting_time_that_stays_does_not_grow():
    claims = fraction_claims(paper_like(growth=1.0))
    assert by_name(claims, "t_f grows").holds is False and by_name(claims, "t_m hardly").holds


def test_a_lowest_error_that_rises_along_is_not_flat():
    steep = {rho: [noisy(rho, low=0.05 + rho, high=0.1 + rho)] * 2 for rho in (0.0, 0.2, 0.4, 0.9)}
    assert by_name(fraction_claims(steep), "ε_m stays").holds is False


def test_activities_by_phase():
    """Phases I to IV end at about 4, 28, 100 and 300 epochs."""
    names = ("activity", "activity_c", "activity_w", "directed_activity_c", "directed_activity_w", "directed_activity")
    # the least common factor on every border is 3 up and 10 down
    levels = np.select([EPOCH < 4, EPOCH < 28, EPOCH < 100], [1.0, 3.0, 9.0], 0.9)
    run = noisy(0.5, **{name: levels for name in names}, alignment_cw=np.where((EPOCH > 28) & (EPOCH < 100), 0.5, -0.9))
    claims = activity_claims([run] * 5)
    rises = [claim for claim in claims if "rise from I" in claim.claim]
    falls = [claim for claim in claims if "fall in IV" in claim.claim]
    assert len(rises) == len(falls) == 3
    assert all(claim.holds and claim.values == pytest.approx((3.0,) * 5) for claim in rises)
    assert all(claim.holds and claim.values == pytest.approx((0.1,) * 5) for claim in falls)
    assert by_name(claims, "phase III: R_cw > 0").holds and by_name(claims, "phase IV: R_cw < 0").holds
    assert by_name(claims, "phase I: A_0c ≫ A_0w").holds is False  # they are equal here
    upside_down = noisy(0.5, **{name: 1 / levels for name in names}, alignment_cw=0.5)
    claims = activity_claims([upside_down] * 5)
    assert not any(claim.holds for claim in claims if "rise from I" in claim.claim or "fall in IV" in claim.claim)


def with_spectra(run, dimensions, totals):
    """Flat spectra of so many equal eigenvalues at every third checkpoint, by the epochs from which they hold."""
    n = 300
    values, total = np.full((len(EPOCH), n), np.nan), np.full(len(EPOCH), np.nan)
    for place in range(0, len(EPOCH), 3):
        start = max(epoch for epoch in dimensions if epoch <= EPOCH[place])
        width = dimensions[start]
        values[place] = 0.0
        values[place, :width] = totals[start] / width
        total[place] = totals[start]
    return run.assign(
        noise_spectrum=(("step", "eigenvalue"), values),
        spectrum_total_variance=("step", total),
        effective_dimension=("step", np.ceil(0.9 * np.nan_to_num((values > 0).sum(axis=1)))),
    )


def test_spectra_of_two_phases():
    """Fast learning ends at about epoch 5.6 here: 120 equal directions before, 110 after, a tenth of the variance."""
    run = with_spectra(two_phases(), {0: 120, 5.6: 110}, {0: 1.0, 5.6: 0.1})
    claims = spectrum_claims([run] * 2, n_parameters=900)
    assert all(claim.holds for claim in claims)
    assert by_name(claims, "D_s is about 110 in fast learning").values == (108.0, 108.0)
    assert by_name(claims, "D_s is about 110 in exploration").values == (99.0, 99.0)
    assert by_name(claims, "D is much higher").values == pytest.approx((10.0, 10.0))
    assert by_name(claims, "both normalised").values == pytest.approx((1 - 110 / 120,) * 2)
    unlike = spectrum_claims([with_spectra(two_phases(), {0: 300, 5.6: 10}, {0: 1.0, 5.6: 1.0})], n_parameters=300)
    assert not any(claim.holds for claim in unlike)


def test_spectra_of_four_phases():
    run = with_spectra(noisy(0.5), {0: 50, 4: 70, 28: 150, 100: 100}, dict.fromkeys((0, 4, 28, 100), 1.0))
    found = [float(phase_spectrum(run, name)["effective_dimension"]) for name in ("I", "II", "III", "IV")]
    assert found == [45, 63, 135, 90]
    claims = phase_spectrum_claims([run] * 5, n_parameters=10_000)
    assert all(claim.holds for claim in claims if "normalised" not in claim.claim)
    assert by_name(claims, "normalised").values == pytest.approx((2 / 3,) * 5)  # 50 directions of 150
    assert phase_spectrum(run, "exploration") is None and phase_spectrum(noisy(0.5), "I") is None


def test_the_gap_of_two_flat_spectra_is_where_the_shorter_ends():
    one, other = (
        with_spectra(two_phases(), {0: width}, {0: scale}).isel(step=0) for width, scale in ((100, 1.0), (200, 7.0))
    )
    assert largest_gap(one, other) == pytest.approx(0.5) and largest_gap(one, one) == 0
    assert np.isnan(largest_gap(one, None))


@given(st.floats(-3, 3), st.floats(-3, 3), st.integers(3, 9))
def test_points_on_a_line_are_found_to_be_on_it(slope, intercept, n):
    x = np.linspace(0, 0.9, n)
    found = line(x, intercept + slope * x)
    np.testing.assert_allclose(found[:2], (slope, intercept), atol=1e-9)
    assert np.isnan(found[2]) or abs(slope) < 1e-6 or found[2] == pytest.approx(1)
    assert np.isnan(line(x[:2], x[:2])).all()  # two points are no line


def test_ranks_correlate_whatever_the_scale():
    x = np.linspace(0.1, 0.8, 8)
    assert rank_correlation(x, np.exp(9 * x)) == pytest.approx(1) and rank_correlation(x, -(x**3)) == pytest.approx(-1)
    assert np.isnan(rank_correlation(x[:2], x[:2])) and np.isnan(rank_correlation(x, np.ones(8)))


def test_every_figure_has_its_sweeps_and_each_sweep_its_runs(tmp_path):
    assert set(SWEEPS) == set(FIGURES)
    for scale in (FULL, QUICK):
        plans = paper_sweeps(SWEEPS, scale, mnist=tmp_path, cifar=tmp_path, seeds=None, device=None)
        assert set(plans) == {name for needed in SWEEPS.values() for name in needed}
        assert len(plans["fractions"].members()) == len(scale.fractions) * scale.seeds
        assert len(plans["cleansing"].members()) == len(scale.cleansing_fractions) * scale.seeds
        assert 0.0 in scale.cleansing_fractions and HALF in scale.cleansing_fractions
        assert {member.settings.network for member in plans["resnet"].members()} == {"resnet"}
    some = paper_sweeps(("fig1", "fig2"), FULL, mnist=tmp_path, cifar=None, seeds=4, device="cuda")
    assert set(some) == {"clean"}
    assert [m.settings.seed for m in some["clean"].members()] == [0, 1, 2, 3]
    assert {(m.settings.backend, m.settings.device) for m in some["clean"].members()} == {("torch", "cuda")}
    with pytest.raises(UsageError, match="seeds = 0"):
        paper_sweeps(("fig2",), FULL, mnist=tmp_path, cifar=None, seeds=0, device=None)


def test_data_are_found_below_a_folder_or_in_it(tmp_path):
    (tmp_path / "cifar10" / "cifar-10-batches-bin").mkdir(parents=True)
    assert data_folder(tmp_path, "cifar10") is None
    (tmp_path / "cifar10" / "cifar-10-batches-bin" / "data_batch_1.bin").touch()
    assert data_folder(tmp_path, "cifar10") == tmp_path / "cifar10"
    assert data_folder(tmp_path / "cifar10", "cifar10") == tmp_path / "cifar10"


def command(*arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(reproduce)
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_mistakes_are_named_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-images-idx3-ubyte").touch()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("precious")
    for arguments, named in (
        (("fig7", "--data-dir", "data"), "'fig7' is no figure"),
        (("all",), "--data-dir"),
        (("all", "--data-dir", "thesis"), "no MNIST files"),
        (("all", "--data-dir", "data", "--workers", 0), "workers = 0"),
        (("all", "--data-dir", "data", "--seeds", 0), "seeds = 0"),
        (("all", "--data-dir", "data", "--out", "thesis"), "holds no reproduction"),
    ):
        found = command(*arguments)
        assert isinstance(found.exception, UsageError) and named in str(found.exception), found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "thesis"]


@pytest.mark.usefixtures("pictures")
def test_every_figure_comes_of_tiny_runs(tmp_path, mnist_folder, monkeypatch):
    tiny = replace(
        QUICK, clean_samples=200, clean_epochs=6, noisy_samples=200, noisy_epochs=6, test_samples=100, checkpoints=8,
        clean_spectra=2, noisy_spectra=2, fractions=(0.0, 0.5), cleansing_samples=200, cleansing_epochs=10,
        cleansing_probes=6,
    )  # fmt: skip
    monkeypatch.setattr("sgdphases.paper.experiments.QUICK", tiny)
    out = tmp_path / "out"
    done = command("all", "--quick", "--seeds", 1, "--data-dir", mnist_folder, "--out", out, "--workers", 1)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (out / "figures").iterdir()) == [f"figure-{k}.png" for k in range(1, 7)]
    table = json.loads((out / "claims.json").read_text(encoding="utf-8"))
    assert {claim["figure"] for claim in table["claims"]} == set(SWEEPS)


@pytest.mark.slow
def test_the_whole_reproduction_on_a_small_scale(tmp_path, mnist_folder):
    """All six figures on MNIST; run again it only draws, and with other settings it refuses."""
    out = tmp_path / "out"
    arguments = ("all", "--quick", "--data-dir", mnist_folder, "--out", out, "--workers", 1)
    one = (*arguments, "--seeds", 1)
    first = command(*one)
    assert first.exit_code == 0, first.output
    assert "no CIFAR-10 files" in first.output and "verdict" in first.output
    table = json.loads((out / "claims.json").read_text(encoding="utf-8"))
    assert {claim["figure"] for claim in table["claims"]} == set(SWEEPS)
    for claim in table["claims"]:
        measured = "CIFAR" not in claim["claim"]
        assert claim["holds"] in (True, False, None) and (measured or claim["holds"] is None)
    pictures = [out / "figures" / f"figure-{k}.png" for k in range(1, 7)]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    page = (out / "reproduction.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 6 and 'src="http' not in page

    def written():
        """When each member's measurements were written, or where they stand among those of its sweep."""
        made = [*(out / "sweeps").rglob("trajectory.nc"), *(out / "sweeps").rglob("cleansing.nc")]
        found = {path.parent: path.stat().st_mtime_ns for path in made}
        for results in (out / "sweeps").rglob("results.bin"):
            found |= {results.parent / "members" / name: place for name, place in places(results).items()}
        return found

    files = written()
    assert len(files) == 2 + len(QUICK.fractions) + len(QUICK.cleansing_fractions)
    again = command(*one)
    assert again.exit_code == 0 and json.loads((out / "claims.json").read_text(encoding="utf-8")) == table
    assert files == written()
    other = command(*arguments)
    assert isinstance(other.exception, UsageError) and "other settings" in str(other.exception)
