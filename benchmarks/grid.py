"""A grid of data sets, kinds of noise and seeds, measured row by row into a CSV file that a second run goes on from."""

import argparse
import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

Row = dict[str, str]


def measured_grid(
    description: str | None,
    names: Iterable[str],
    on_disk: Sequence[str],
    noises: Sequence[tuple[str, float]],
    columns: Sequence[str],
    measure: Callable[[str, str, float, int, Path | None], dict[str, object]],
) -> list[Row]:
    """Read the command line, measure what the file lacks, and give back all its rows.

    ``measure(name, kind, fraction, seed, data_dir)`` gives a row; its first four columns are data, noise, fraction and
    seed. Names ``on_disk`` are left out without --data-dir, unless asked for.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=None, help="data sets")
    parser.add_argument("--noise", nargs="*", default=None, help="such as uniform-0.4")
    given = parser.parse_args()
    rows = _read(given.out)
    done = {(row["data"], row["noise"], float(row["fraction"]), int(row["seed"])) for row in rows}
    chosen = given.only or [name for name in names if given.data_dir or name not in on_disk]
    with open(given.out, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        if not rows:
            writer.writeheader()
        for seed in range(given.seeds):
            for name in chosen:
                for kind, fraction in noises:
                    wanted = given.noise is None or f"{kind}-{fraction:g}" in given.noise
                    if wanted and (name, kind, fraction, seed) not in done:
                        row = measure(name, kind, fraction, seed, given.data_dir)
                        writer.writerow(row)
                        file.flush()
                        print(*(f"{v:.3f}" if isinstance(v, float) else v for v in row.values()), flush=True)
    return _read(given.out)


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
