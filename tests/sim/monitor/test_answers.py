"""What the monitor says in somebody's loop: the phase, the phases, the wrong labels."""

import numpy as np
import pytest
import torch
from command_line import call
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import sgdphases
from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.monitor.monitor import PhaseMonitor


@pytest.fixture(scope="module")
def watched():
    """Digits, 40 % of the labels drawn from all classes, in a loop with Adam and a network with BatchNorm."""
    clean = sgdphases.load_dataset("digits", rng=np.random.default_rng(0))
    data = sgdphases.add_label_noise(clean, kind="uniform", fraction=0.4, rng=np.random.default_rng(1))
    x, y = torch.from_numpy(data.x_train).flatten(1).float(), torch.from_numpy(data.y_train)
    test = TensorDataset(torch.from_numpy(data.x_test).flatten(1).float(), torch.from_numpy(data.y_test))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 200), nn.BatchNorm1d(200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)
    )
    loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True)
    optimizer, loss_fn = torch.optim.Adam(model.parameters(), 1e-3), nn.CrossEntropyLoss()
    monitor = PhaseMonitor(
        model, loss_fn, loader, test_loader=DataLoader(test, batch_size=200), alignment_batches=0, per_decade=12
    )
    said = {}
    for epoch in range(80):
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss_fn(model(inputs), targets).backward()
            optimizer.step()
            monitor.step()
        if epoch in (0, 79):
            monitor.measure_now()
            said[epoch] = monitor.phase
    return data, monitor, said


def test_it_says_where_the_network_is(watched):
    _, monitor, said = watched
    assert [phase.name for phase in monitor.phases.found] == ["I", "II", "III", "IV"]
    assert "hard samples" in monitor.phases.reading  # without the mask nothing more is known
    assert said[0].name in ("", "fast learning", "I")
    last = said[79]
    assert last.name == "IV" and last.p_value < 0.01 and last.since_step > 100
    assert str(last).startswith(f"IV since step {last.since_step:.0f}, epoch")


def test_it_finds_the_wrong_labels(watched):
    data, monitor, _ = watched
    found = monitor.wrong_labels()
    wrong = (data.y_train != data.y_clean)[monitor.watched]
    assert found.has_noise and found.t_clean < 20
    assert wrong[found.flagged].mean() > 0.9 and found.flagged[wrong].mean() > 0.9
    low, high = found.noise_interval
    assert low - 0.05 < wrong.mean() < high + 0.05


def test_without_test_loader_or_cross_entropy_it_says_so():
    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.randint(0, 3, (60,))
    model, loader = nn.Linear(4, 3), DataLoader(TensorDataset(x, y), batch_size=20)
    monitor = PhaseMonitor(model, nn.CrossEntropyLoss(), loader, alignment_batches=0)
    assert str(monitor.phase).startswith("No phase yet: ")
    with pytest.raises(InputError, match="at least 3 probes"):
        monitor.wrong_labels()
    smooth = PhaseMonitor(model, nn.CrossEntropyLoss(label_smoothing=0.1), loader, alignment_batches=0)
    with pytest.raises(UsageError, match="cross-entropy"):
        smooth.wrong_labels()


def test_losses_that_make_no_sense_are_refused():
    epochs = [1.0, 2.0, 4.0]
    with pytest.raises(InputError, match="increasing"):
        sgdphases.find_wrong_labels_from_losses([1.0, 1.0, 2.0], np.ones((3, 5)))
    with pytest.raises(InputError, match="below zero"):
        sgdphases.find_wrong_labels_from_losses(epochs, -np.ones((3, 5)))
    with pytest.raises(InputError, match="labels of shape"):
        sgdphases.find_wrong_labels_from_losses(epochs, np.ones((3, 5)), np.zeros(4))
    with pytest.raises(InputError, match="NaN"):
        sgdphases.find_wrong_labels_from_losses(epochs, np.full((3, 5), np.nan))


def test_a_page_is_drawn_of_it(watched, tmp_path):
    _, monitor, _ = watched
    page = monitor.report(tmp_path / "page")
    text = page.read_text(encoding="utf-8")
    assert "A Sequential, after 80 epochs, in minibatches of 50, measured on" in text and "hard samples" in text
    assert (tmp_path / "page" / "phases.json").is_file() and list((tmp_path / "page" / "figures").glob("*.png"))
    with pytest.raises(InputError, match="cannot be written"):
        sgdphases.report(monitor.trajectory, page)


def test_the_command_line_draws_a_monitors_folder(tmp_path):
    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.randint(0, 3, (60,))
    model, loader = nn.Linear(4, 3), DataLoader(TensorDataset(x, y), batch_size=20)
    monitor = PhaseMonitor(model, nn.CrossEntropyLoss(), loader, out=tmp_path / "mine", alignment_batches=0)
    for _ in range(5):
        monitor.step()
    monitor.measure_now()
    done = call("report", str(tmp_path / "mine"))
    assert done.returncode == 0 and "No settings" not in done.stdout, done.stderr
    assert "measured on 60 of 60" in (tmp_path / "mine" / "report.html").read_text(encoding="utf-8")


class Dictionaries(Dataset):
    """Samples as Hugging Face has them: dictionaries with labels."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(0, 9, (60, 5), generator=generator)
        self.labels = (self.tokens == 0).any(dim=1).long()

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return {"tokens": self.tokens[index], "numbers": torch.ones(2), "labels": self.labels[index]}


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.own, self.head = nn.Embedding(9, 4), nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, tokens, numbers):
        return {"logits": self.head(torch.tanh(self.table(tokens).mean(dim=1) + self.own(numbers)))}


def test_batches_of_every_kind_are_measured_alike():
    dataset = Dictionaries()

    def watched(dataset, loss_fn=nn.functional.cross_entropy, **options):
        torch.manual_seed(1)
        options = {"output": "logits", "alignment_batches": 0, **options}
        monitor = PhaseMonitor(Named(), loss_fn, DataLoader(dataset, batch_size=20), **options)
        return float(monitor.trajectory["activity"][0]), float(monitor.trajectory["train_error"][0])

    expected = watched(dataset)
    assert expected[1] == expected[1]
    pairs = [((d["tokens"], d["numbers"]), d["labels"]) for d in (dataset[i] for i in range(60))]
    triples = [(d["tokens"], d["numbers"], d["labels"]) for d in (dataset[i] for i in range(60))]
    assert watched(pairs) == expected
    assert watched(triples, split=lambda batch: (tuple(batch[:2]), batch[2])) == expected
    with pytest.raises(UsageError, match="split="):
        watched(triples)

    def loss_of(model, batch):
        out = model(batch["tokens"], batch["numbers"])["logits"]
        return nn.functional.cross_entropy(out, batch["labels"], reduction="none")

    found = watched(dataset, None, loss_of=loss_of)
    assert found[0] == pytest.approx(expected[0], rel=1e-6) and np.isnan(found[1])
    with pytest.raises(UsageError, match="loss_fn"):
        watched(dataset, None)


def loop(monitor, model, loader, optimizer, steps):
    for _ in range(steps):
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            monitor.step()


def test_a_monitor_goes_on_where_another_was_stopped():
    torch.manual_seed(0)
    x = torch.randn(60, 4)
    loader = DataLoader(TensorDataset(x, x.argmax(dim=1)), batch_size=20)

    def started(weights=None):
        torch.manual_seed(1)
        model = nn.Linear(4, 4)
        if weights is not None:
            model.load_state_dict(weights)
        monitor = PhaseMonitor(model, nn.CrossEntropyLoss(), loader, alignment_batches=3)
        return monitor, model, torch.optim.SGD(model.parameters(), 0.1)

    whole = started()
    loop(whole[0], whole[1], loader, whole[2], 9)
    first = started()
    loop(first[0], first[1], loader, first[2], 4)
    second = started(first[1].state_dict())
    second[0].load_state_dict(first[0].state_dict())
    loop(second[0], second[1], loader, second[2], 5)
    assert whole[0].trajectory.equals(second[0].trajectory)
    other = PhaseMonitor(first[1], nn.CrossEntropyLoss(), loader, alignment_batches=0, n_samples=30)
    with pytest.raises(InputError, match="other samples"):
        other.load_state_dict(first[0].state_dict())
    with pytest.raises(InputError, match="no state"):
        other.load_state_dict({"steps": 3})


class Writer:
    """Keeps what it is given, by whichever name it is called."""

    def __init__(self, *methods):
        self.given = []
        for method in methods:
            setattr(self, method, lambda *a, method=method, **k: self.given.append((method, a, k)))


def test_every_measurement_is_logged():
    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.randint(0, 3, (60,))
    loader = DataLoader(TensorDataset(x, y), batch_size=20)

    def watched(log):
        monitor = PhaseMonitor(nn.Linear(4, 3), nn.CrossEntropyLoss(), loader, alignment_batches=0, log=log)
        for _ in range(3):
            monitor.step()
        return monitor

    seen = []
    monitor = watched(lambda step, scalars, phase: seen.append((step, scalars["activity"], phase)))
    assert [(step, value) for step, value, _ in seen] == list(
        zip(range(4), monitor.trajectory["activity"].to_numpy(), strict=True)
    )
    assert all(text.startswith("No phase yet") for *_, text in seen)
    board, runs, lightning = Writer("add_scalar", "add_text"), Writer("log"), Writer("log_metrics")
    for log in (board, runs, lightning):
        watched(log)
    assert ("sgdphases/loss" in {a[0] for m, a, _ in board.given if m == "add_scalar"}) and len(runs.given) == 4
    assert all(np.isfinite(a[1]) for m, a, _ in board.given if m == "add_scalar")
    assert lightning.given[3][2] == {"step": 3} and "sgdphases/activity" in lightning.given[3][1][0]
    with pytest.raises(UsageError, match="log = 3"):
        watched(3)


def test_tensorboard_really_takes_it(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="tensorboard is not installed")
    x, y = torch.randn(60, 4), torch.randint(0, 3, (60,))
    loader = DataLoader(TensorDataset(x, y), batch_size=20)
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        PhaseMonitor(nn.Linear(4, 3), nn.CrossEntropyLoss(), loader, alignment_batches=0, log=writer)
    written = next(tmp_path.glob("events.out.*")).read_bytes()
    assert b"sgdphases/activity" in written and b"sgdphases/phase" in written
