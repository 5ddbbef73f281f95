"""What README and docs/ show is there and runs."""

import re
from pathlib import Path

import pytest

from sgdphases.estimators.ensemble.order_parameters import describe
from sgdphases.sim.run.trajectory import OTHER_SCALARS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]


@pytest.mark.parametrize(
    "page", ["README.md", "docs/measuring.md", "docs/theory.md", "docs/cleansing.md", "docs/monitoring.md"]
)
def test_the_python_examples_run(page):
    names = {}
    for example in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL):
        exec(example, names)
    if page == "docs/theory.md":
        assert names["step"].loss_change(0.01) < 0 and names["paths"]["loss"].shape == (2, 3, 3)
    elif page == "docs/cleansing.md":
        wrong = names["y"] != names["right"]
        assert wrong[names["found"].flagged].mean() > 0.8 and names["finder"].noise_fraction_ > 0.1
    elif page == "docs/monitoring.md":
        assert names["monitor"].phase.name and names["monitor"].trajectory.sizes["step"] > 20
    else:
        assert names["found"].activity > names["found"].at_batch_size(100).activity > names["found"].directed_activity


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
