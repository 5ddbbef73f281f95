"""A subset of real MNIST stands for the 20,000 images it was drawn from, at a batch size where that matters."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sgdphases
from sgdphases.sim.monitor.monitor import PhaseMonitor

N, B = 20_000, 512


def test_4096_images_stand_for_20000(mnist_folder):
    """Ten values within 4.5 jackknife standard errors: 5 degrees of freedom, 1 false in 16 seeds; the seed is fixed."""
    clean = sgdphases.load_dataset(
        "mnist", data_dir=mnist_folder, train_size=N, test_size=10, rng=np.random.default_rng(0)
    )
    data = sgdphases.add_label_noise(clean, kind="uniform", fraction=0.3, rng=np.random.default_rng(1))
    x, y = torch.from_numpy(data.x_train).flatten(1).float(), torch.from_numpy(data.y_train)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))
    loader = DataLoader(TensorDataset(x, y), batch_size=B, shuffle=True)
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss()
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
    whole = sgdphases.measure(model, x, y, batch_size=B, wrong=data.wrong, alignment_batches=40)
    monitor = PhaseMonitor(model, loss_fn, loader, wrong=data.wrong, n_samples=4096)
    found = monitor.trajectory.isel(step=0)
    names = (
        "activity", "directed_activity", "total_variance", "projection_variance", "gradient_noise_scale",
        "activity_c", "activity_w", "alignment_cw", "alignment", "loss_w",
    )  # fmt: skip
    for name in names:
        error = float(found[f"{name}_standard_error"])
        assert 0 < error and abs(float(found[name]) - getattr(whole, name)) < 4.5 * error, name
    few = np.sort(np.random.default_rng(2).choice(N, 2000, replace=False))
    naive = sgdphases.measure(model, x[few], y[few], batch_size=B, alignment_batches=0)
    assert naive.total_variance < 0.85 * whole.total_variance  # its own minibatches of 512 exhaust a subset of 2,000
    assert abs(float(found["total_variance"]) / whole.total_variance - 1) < 0.1
