"""A small GPT-like model in Hugging Face's Trainer, on a text that comes with Python: one callback.

pip install 'sgdphases[transformers]'
python examples/hugging_face_loop.py [STEPS]
"""

import codecs
import sys
import this

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from sgdphases.sim.monitor.hugging_face import PhaseMonitorCallback

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
text = codecs.decode(this.s, "rot13").lower()
letters = sorted(set(text))
codes = torch.tensor([letters.index(letter) for letter in text])


class Windows(Dataset):
    def __len__(self):
        return len(codes) - 32

    def __getitem__(self, index):
        return {"input_ids": codes[index : index + 32], "labels": codes[index : index + 32]}


def next_letter(logits, labels):
    """The mean over letters, as many in each sample: so it is the mean over samples, too."""
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


torch.manual_seed(0)
sizes = {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
model = GPT2LMHeadModel(GPT2Config(vocab_size=len(letters), bos_token_id=None, eos_token_id=None, **sizes))
watch = PhaseMonitorCallback(next_letter, n_samples=200)
arguments = TrainingArguments(
    "runs/hugging-face", max_steps=steps, per_device_train_batch_size=16, report_to=[], save_strategy="no", use_cpu=True
)
Trainer(model, arguments, train_dataset=Windows(), callbacks=[watch]).train()

found = watch.monitor.trajectory
print(found[["loss", "activity", "directed_activity", "gradient_noise_scale"]].to_dataframe().tail())
