"""Standard output in any encoding: symbols it lacks are written in ASCII, and nothing fails."""

import os
import subprocess

import pytest
from command_line import PROGRAM, QUICK, call
from hypothesis import given
from hypothesis import strategies as st

from sgdphases.faces.encoding import plain

RUN = ["run", *QUICK, "--noise-fraction", "0.5"]


def call_in(arguments, cwd, **environment):
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, cwd=cwd, timeout=300, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("σ_λ² ε_te A₀ δR", "sigma_lambda^2 eps_te A0 deltaR"),
        ("epochs 0–4, A_0c ≫ A_0w … → ρ = 0.5", "epochs 0-4, A_0c >> A_0w ... -> rho = 0.5"),
        ("Δ é ┏━┓ ┃ 中 \udcc3", "Delta e +-+ | ? ?"),
        ("plain", "plain"),
    ],
)
def test_symbols_by_their_names(text, expected):
    assert plain(text) == expected


@given(st.text())
def test_any_text_becomes_ascii(text):
    assert plain(text).isascii()


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=lambda each: next(iter(each.values())),
)
def test_a_run_speaks_any_encoding(tmp_path, environment):
    done = call_in([*RUN, "--out", "run"], tmp_path, **environment)
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    check_output(done.stdout.decode(environment.get("PYTHONIOENCODING", "ascii")), "cp1252" in environment.values())


def check_output(text, has_squares):
    assert ("sigma_lambda²" if has_squares else "sigma_lambda^2") in text and "eps_te" in text
    assert text.strip().splitlines()[-1] == "report: run/report.html".replace("/", os.sep)


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_run_speaks_any_encoding_of_its_streams(tmp_path, encoding):
    done = call(*RUN, "--out", "run", cwd=tmp_path, encoding=encoding)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    check_output(done.stdout, encoding == "cp1252")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["presets"], 0),
        (["datasets"], 0),
        (["--help"], 0),
        (["cleanse", "--help"], 0),
        (["verify", "--samples", "8", "--backend", "numba"], 0),
        (["sweep", *QUICK, "--seeds", "2", "--workers", "1"], 0),
        (["run", "zoë.npz"], 1),
        (["run", "é"], 2),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, list) else "",
)
def test_every_command_speaks_ascii(tmp_path, arguments, code):
    done = call(*arguments, cwd=tmp_path, encoding="ascii")
    assert done.returncode == code and (done.stdout + done.stderr).isascii(), done.stderr
