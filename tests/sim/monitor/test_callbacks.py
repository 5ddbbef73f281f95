"""The monitor in other people's trainers, really run: it measures, and training ends in the same bits without it."""

import codecs
import this

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import sgdphases


def data():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(90, 6)).astype(np.float32))
    return x, torch.from_numpy(rng.integers(0, 3, 90))


def lightning_trained(watched, accumulation=1):
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")
    from sgdphases.sim.monitor.lightning import PhaseMonitorCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(*data()), batch_size=16, shuffle=True)
    module = Module()
    callback = PhaseMonitorCallback(nn.functional.cross_entropy, loader, n_samples=50)
    trainer = lightning.Trainer(
        max_epochs=2,
        accumulate_grad_batches=accumulation,
        callbacks=[callback] if watched else [],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        accelerator="cpu",
    )
    trainer.fit(module, loader)
    return module, callback.monitor


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_as_without_it():
    module, monitor = lightning_trained(True)
    assert int(monitor.trajectory["step"][-1]) == 12 and len(monitor.trajectory["step"]) > 5
    alone, _ = lightning_trained(False)
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in alone.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_lightning_counts_steps_of_the_optimizer():
    """Six batches of 16, two for a step."""
    module, monitor = lightning_trained(True, accumulation=2)
    found = monitor.trajectory
    assert found["step"][-1] == 6 and found["epoch"][-1] == 2 and found.attrs["batch_size"] == 32
    alone, _ = lightning_trained(False, accumulation=2)
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in alone.state_dict().items())


class Text(Dataset):
    """Windows of a text that comes with Python, character by character."""

    def __init__(self, length=16):
        text = codecs.decode(this.s, "rot13").lower()
        known = sorted(set(text))
        self.codes = torch.tensor([known.index(letter) for letter in text])
        self.length, self.n_letters = length, len(known)

    def __len__(self):
        return 100

    def __getitem__(self, index):
        window = self.codes[8 * index : 8 * index + self.length]
        return {"input_ids": window, "labels": window}


def next_token(outputs, labels):
    return nn.functional.cross_entropy(outputs[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def small_gpt(n_letters):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.GPT2Config(
        vocab_size=n_letters, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None
    )
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config)


def transformer_trained(watched, folder, accumulation=1):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    from sgdphases.sim.monitor.hugging_face import PhaseMonitorCallback

    text = Text()
    model = small_gpt(text.n_letters)
    callback = PhaseMonitorCallback(next_token, n_samples=40, alignment_batches=0)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=12,
        gradient_accumulation_steps=accumulation,
        per_device_train_batch_size=10 // accumulation,
        learning_rate=1e-3,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
        seed=3,
    )
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=text, callbacks=[callback] if watched else []
    )
    trainer.train()
    return model, callback.monitor, text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_small_gpt_trains_as_without_it(tmp_path):
    model, monitor, text = transformer_trained(True, tmp_path, accumulation=2)
    assert monitor.trajectory.attrs["batch_size"] == 10 and monitor.trajectory.attrs["steps_per_epoch"] == 10
    assert int(monitor.trajectory["step"][-1]) == 12 and len(monitor.trajectory["step"]) > 8
    alone, _, _ = transformer_trained(False, tmp_path, accumulation=2)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in alone.state_dict().items())
    ids = torch.stack([text[i]["input_ids"] for i in monitor.watched])
    found = sgdphases.measure(
        model, {"input_ids": ids}, ids, batch_size=10, loss=next_token, output="logits", drawn_from=100,
        alignment_batches=0,
    )  # fmt: skip
    assert float(monitor.trajectory["loss"][-1]) == pytest.approx(found.loss, rel=1e-5)
    own = []
    for i in range(len(ids)):  # dropout is off: the model in eval mode
        loss = next_token(model.eval()(input_ids=ids[i : i + 1]).logits, ids[i : i + 1])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        own.append(sum(float(g.square().sum()) for g in gradients))
    assert found.known_moments().everything.mean_squared_norm == pytest.approx(np.mean(own), rel=1e-4)
