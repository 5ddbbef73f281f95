"""Where `sgdphases verify` checks: a run's last checkpoint, or a small network trained a little."""

from pathlib import Path

import numpy as np

from sgdphases.estimators.backends.mlp import MLP
from sgdphases.estimators.backends.registry import backend_class, backend_names
from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.verify import Check, verify
from sgdphases.sim.run.folder import RunFolder
from sgdphases.sim.run.schedule import sample_order
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.run.streams import stream
from sgdphases.sim.run.training import prepare

EPOCHS = 5  # of training before a check without a run


def verify_backends(
    run: Path | None, backend: str | None, dataset: str, data_dir: str | None, samples: int, seed: int
) -> dict[str, list[Check]]:
    """Check one or all registered backends against the numpy reference.

    Parameters
    ----------
    run : Path or None
        Folder of a run; its network at its last checkpoint, on its training samples.
    backend : str or None
        None takes every registered backend whose packages are installed.
    dataset, data_dir : str
        Used without a run.
    samples : int
        Training samples drawn for the checks.
    seed : int

    Returns
    -------
    dict of list of Check
        By the name of the backend.

    Raises
    ------
    UsageError, InputError
        If there is no such run, backend or data set.
    """
    if run is None:
        settings = make_settings(
            {
                "dataset": dataset,
                "data_dir": data_dir,
                "noise_fraction": 0.5,
                "hidden": (20, 20),
                "seed": seed,
                "activation": "tanh",
            }
        )
        experiment = prepare(settings)
        n = experiment.data.n_samples
        per_epoch = experiment.steps_per_epoch
        for epoch in range(min(EPOCHS, settings.epochs)):
            order = sample_order(seed, epoch * per_epoch, (epoch + 1) * per_epoch, n, settings.batch_size)
            experiment.train.train(order[:50_000], settings.batch_size, settings.learning_rate)
        weights = experiment.train.weights
    else:
        folder = RunFolder(run)
        settings = folder.read_settings()
        if settings.network != "mlp":
            raise UsageError(
                f"{folder.path} holds a run of network {settings.network!r}: verify compares backends on perceptrons, "
                "and PyTorch is the only one for others; name a run with network = 'mlp', or none."
            )
        experiment = prepare(settings)
        weights = folder.read_checkpoint().weights
    data, settings = experiment.data, experiment.settings
    chosen = np.sort(stream(seed, "data").permutation(data.n_samples)[:samples])
    wrong = None if experiment.wrong is None else experiment.wrong[chosen]
    x, y = data.x_train[chosen], data.y_train[chosen]
    sizes = (int(np.prod(data.input_shape)), *settings.hidden, data.n_outputs)
    model = MLP(sizes, settings.activation, weights.astype(np.float64))
    names = [backend] if backend else backend_names()
    results = {}
    for name in names:
        try:
            made = backend_class(name)(model, x, y, loss=settings.loss)
        except UsageError:
            if backend:
                raise
            continue  # not installed, or not for this network
        reference = backend_class("numpy")(model, x, y, loss=settings.loss)
        batch_size = min(settings.batch_size, len(chosen))
        smooth = settings.activation != "relu" and bool(settings.hidden)
        results[name] = verify(made, reference, batch_size=batch_size, wrong=wrong, smooth=smooth, seed=seed)
    return results
