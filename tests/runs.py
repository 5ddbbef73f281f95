"""Small runs on disk for several test files: begun, and trained to their end."""

from sgdphases.sim.run_folder import RunFolder, start_folder
from sgdphases.sim.settings import make_settings
from sgdphases.sim.training import advance, prepare

SMALL = dict(
    dataset="gaussian-mixture", train_size=97, test_size=50, noise_fraction=0.4, hidden=(8, 6), batch_size=10,
    epochs=12, checkpoints=15, alignment_batches=4, seed=3,
)  # fmt: skip


def start(path, base=SMALL, **changes):
    experiment, folder = prepare(make_settings({**base, **changes})), RunFolder(path)
    start_folder(folder, experiment.settings)
    return experiment, folder


def finish(experiment, folder, begin=None):
    for _ in advance(experiment, folder, begin):
        pass
    return folder.read_trajectory(), folder.read_checkpoint()
