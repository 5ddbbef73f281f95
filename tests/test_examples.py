"""The examples run, and are short."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
NEEDED = {"lightning_loop": "lightning", "hugging_face_loop": "transformers"}
SAID = {"plain_loop": "labels flagged", "lightning_loop": "page: runs", "hugging_face_loop": "gradient_noise_scale"}


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path):
    if path.stem in NEEDED:
        pytest.importorskip(NEEDED[path.stem], reason=f"{NEEDED[path.stem]} is not installed")
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    done = subprocess.run([sys.executable, path, "5"], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0 and SAID[path.stem] in done.stdout, done.stderr[-2000:]


@pytest.mark.usefixtures("pictures")
def test_the_plain_loop_runs_in_this_process(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["plain_loop.py", "3"])
    runpy.run_path(str(next(path for path in EXAMPLES if path.stem == "plain_loop")))
    assert SAID["plain_loop"] in capsys.readouterr().out and (tmp_path / "runs" / "plain-loop" / "report.html").exists()
