"""The paper's findings in each phase, compared with a run (Feng & Tu 2021, figures 1 and 4).

Signatures describe phases, they do not define them: R_cw > 0 in phase III, for one, needs a large enough learning rate.
"""

from collections.abc import Callable
from dataclasses import dataclass

import xarray as xr

from sgdphases.estimators.phases.find import phase_medians
from sgdphases.estimators.phases.records import Phases

FACTOR = 2.0  # ratio from which one activity counts as much larger than another; below it they count as about equal
Medians = dict[str, float]


@dataclass(frozen=True)
class Signature:
    """One finding of the paper in one phase, and whether a run shows it; None where that cannot be decided."""

    phase: str
    claim: str
    shown: bool | None


_CLAIMS: dict[str, tuple[tuple[str, tuple[str, ...], Callable[[Medians], bool]], ...]] = {
    "fast learning": (
        ("R > 0.1", ("alignment",), lambda m: m["alignment"] > 0.1),
        ("σ_λ² < 1", ("projection_variance",), lambda m: m["projection_variance"] < 1),
    ),
    "exploration": (
        ("R < 0.1", ("alignment",), lambda m: m["alignment"] < 0.1),
        ("σ_λ² > 1", ("projection_variance",), lambda m: m["projection_variance"] > 1),
    ),
    "I": (
        (
            "A_0c ≫ A_0w",
            ("directed_activity_c", "directed_activity_w"),
            lambda m: m["directed_activity_c"] > FACTOR * m["directed_activity_w"],
        ),
        ("R_cw < 0", ("alignment_cw",), lambda m: m["alignment_cw"] < 0),
    ),
    "II": (
        (
            "A_0c ≈ A_0w",
            ("directed_activity_c", "directed_activity_w"),
            lambda m: (
                m["directed_activity_c"] <= FACTOR * m["directed_activity_w"]
                and m["directed_activity_w"] <= FACTOR * m["directed_activity_c"]
            ),
        ),
        ("R_cw near -1", ("alignment_cw",), lambda m: m["alignment_cw"] < -0.5),
        (
            "A_0 ≪ A_0c",
            ("directed_activity", "directed_activity_c"),
            lambda m: FACTOR * m["directed_activity"] < m["directed_activity_c"],
        ),
    ),
    "III": (("R_cw > 0", ("alignment_cw",), lambda m: m["alignment_cw"] > 0),),
    "IV": (("R_cw < 0", ("alignment_cw",), lambda m: m["alignment_cw"] < 0),),
}


def signatures(trajectory: xr.Dataset, phases: Phases) -> list[Signature]:
    """The paper's signatures of the phases found, by medians over the checkpoints of each.

    Parameters
    ----------
    trajectory : xarray.Dataset
    phases : Phases
        Of `find_phases` on it.

    Returns
    -------
    list of Signature
        In the order of the phases.
    """
    names = tuple({name for claims in _CLAIMS.values() for _, needs, _ in claims for name in needs})
    found = []
    for phase, medians in zip(phases.found, phase_medians(trajectory, phases, names), strict=True):
        for claim, needs, holds in _CLAIMS[phase.name]:
            known = all(medians[name] == medians[name] for name in needs)
            found.append(Signature(phase.name, claim, bool(holds(medians)) if known else None))
    return found
