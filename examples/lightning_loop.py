"""The same in a Lightning trainer: one callback.

pip install 'sgdphases[lightning]'
python examples/lightning_loop.py [EPOCHS]
"""

import sys

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sgdphases
from sgdphases.sim.monitor.lightning import PhaseMonitorCallback


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Dropout(0.2), nn.Linear(100, 10))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 30
x, y = load_digits(return_X_y=True)
data = TensorDataset(torch.from_numpy(x / 16).float(), torch.from_numpy(y))
train, test = torch.utils.data.random_split(data, [1200, len(data) - 1200], torch.Generator().manual_seed(0))
loader, test_loader = DataLoader(train, batch_size=50, shuffle=True), DataLoader(test, batch_size=200)

watch = PhaseMonitorCallback(nn.functional.cross_entropy, loader, test_loader=test_loader)
trainer = lightning.Trainer(max_epochs=epochs, callbacks=[watch], logger=False, enable_checkpointing=False)
trainer.fit(Classifier(), loader)

print(watch.monitor.phase)
print("page:", sgdphases.report(watch.monitor.trajectory, "runs/lightning-loop"))
