"""Small runs on disk for several test files: started, and trained to the end."""

from sgdphases.sim.run.folder import RunFolder, start_folder
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.run.training import advance, prepare

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


def assert_same_bits(one, other):
    (trajectory, checkpoint), (trajectory_2, checkpoint_2) = one, other
    assert trajectory.drop_attrs().identical(trajectory_2.drop_attrs())
    assert checkpoint.weights.tobytes() == checkpoint_2.weights.tobytes()
    assert checkpoint.step == checkpoint_2.step


def stopped_and_resumed(path, pieces, **changes):
    """A run left after so many pieces of training, and finished by a new process's means."""
    experiment, folder = start(path, **changes)
    started = advance(experiment, folder)
    for _ in range(pieces):
        next(started)
    started.close()
    return finish(prepare(folder.read_settings()), folder, folder.read_checkpoint())
