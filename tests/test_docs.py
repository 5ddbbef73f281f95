"""What README and docs/ show is there and runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from two_lengths import slow

from sgdphases.estimators.ensemble.order_parameters import describe
from sgdphases.sim.run.trajectory import OTHER_SCALARS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]


NEEDED = {"docs/lightning.md": "lightning", "docs/hugging-face.md": "transformers"}
RUN = ["README.md", "docs/measuring.md", "docs/theory.md", "docs/cleansing.md", "docs/monitoring.md", "docs/cluster.md"]


@pytest.mark.parametrize("page", [*RUN, *map(slow, NEEDED)])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_the_python_examples_run(page, tmp_path, monkeypatch):
    if page in NEEDED:
        pytest.importorskip(NEEDED[page], reason=f"{NEEDED[page]} is not installed")
    monkeypatch.chdir(tmp_path)
    names = {}
    for example in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL):
        exec(example, names)
    if page == "docs/theory.md":
        assert names["step"].loss_change(0.01) < 0 and names["paths"]["loss"].shape == (2, 3, 3)
    elif page == "docs/cleansing.md":
        wrong = names["y"] != names["right"]
        assert wrong[names["found"].flagged].mean() > 0.8 and names["finder"].noise_fraction_ > 0.1
    elif page == "docs/cluster.md":
        assert dict(names["whole"]["error_min"].sizes) == {"learning_rate": 3, "noise_fraction": 2, "seed": 2}
        assert names["whole"]["error_min"].notnull().all()
    elif page in ("docs/monitoring.md", *NEEDED):
        assert names["monitor"].phase.name and names["monitor"].trajectory.sizes["step"] > 20
    else:
        assert names["found"].activity > names["found"].at_batch_size(100).activity > names["found"].directed_activity


@pytest.mark.slow
def test_a_task_of_an_array_goes_on_with_its_own_run(tmp_path):
    """The script of docs/cluster.md, started twice, as a batch system does after it has killed a task."""
    script = re.search(r"```bash\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    (tmp_path / "settings.toml").write_text(
        'dataset = "gaussian-mixture"\ntrain_size = 100\nhidden = [8]\nepochs = 3\nalignment_batches = 0\n'
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "SLURM_ARRAY_TASK_ID": "7"}
    folder = tmp_path / "runs" / "seed-7"
    before = None
    for _ in range(2):
        done = subprocess.run(
            ["bash", "-e", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0 and "runs/seed-7/report.html" in done.stdout, done.stderr[-2000:]
        after = (folder / "trajectory.nc").read_bytes()
        assert before in (None, after)
        before = after
    assert "seed = 7\n" in (folder / "config.toml").read_text(encoding="utf-8")
    assert [each.name for each in (tmp_path / "runs").iterdir()] == ["seed-7"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_measured_name_is_explained():
    text = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
    for name in {**describe(), **OTHER_SCALARS}:
        stem = re.sub("_standard_error$", "", name)
        shortened = re.search(rf"`{re.sub('_[cw]$', '', stem)}`[^|\n]*`…_{stem[-1]}`", text)
        assert f"`{stem}`" in text or shortened, name
