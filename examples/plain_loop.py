"""A plain PyTorch loop on scikit-learn's digits, 40 % of whose labels are wrong: which phase, and which labels.

python examples/plain_loop.py [EPOCHS]
"""

import sys

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sgdphases

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 60
x, right = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
order = rng.permutation(len(x))
x, right = torch.from_numpy(x[order] / 16).float(), right[order]
y = np.where(rng.random(len(x)) < 0.4, rng.integers(0, 10, len(x)), right)
train = TensorDataset(x[:1200], torch.from_numpy(y[:1200]))
test = TensorDataset(x[1200:], torch.from_numpy(right[1200:]))

torch.manual_seed(0)
model = nn.Sequential(
    nn.Linear(64, 200), nn.BatchNorm1d(200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)
)
loader, loss_fn = DataLoader(train, batch_size=50, shuffle=True), nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), 1e-3)

monitor = sgdphases.PhaseMonitor(model, loss_fn, loader, test_loader=DataLoader(test, batch_size=200))
for _ in range(epochs):
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
        monitor.step()
monitor.measure_now()

print(monitor.phase)
found = monitor.wrong_labels()
wrong = (y != right)[:1200][monitor.watched]
print(f"{found.flagged.sum()} labels flagged, {(found.flagged & wrong).sum()} of them really wrong, of {wrong.sum()}")
print("page:", sgdphases.report(monitor.trajectory, "runs/plain-loop"))
