"""Fine-tune with PEFT on the matrices with the smallest κ, and on a control that κ did not choose.

Both arms put LoRA of one rank on as many matrices of the same module types; the second draws them
at random. The task is to model German sentences; forgetting is measured on English text that
neither arm trains on. One seed shows no spread, so a difference here is not evidence.

    python examples/peft_kappa.py        # about five minutes on two cores
"""

import argparse
import tempfile

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from kappa_lib import paths, scan, select
from kappa_lib.weights import models

SHARE = 0.2  # of the matrices, as PEFT's own selector takes by default
ARMS = {"selected": "smallest κ", "random_like_selected": "random, same types"}


def sentences(tokenizer: Tokenizer, held_out: int = 64) -> tuple[Dataset, Dataset]:
    """German sentences as tokens, to train on and to test on; none is in both."""
    lines = (paths.DATA / "texts" / "de_open.txt").read_text(encoding="utf-8").splitlines()
    tokens = Dataset.from_dict(dict(tokenizer(lines, truncation=True, max_length=64)))
    tokens = tokens.shuffle(seed=0)
    return tokens.select(range(held_out, len(tokens))), tokens.select(range(held_out))


def passages(tokenizer: Tokenizer, count: int = 16, length: int = 128) -> Dataset:
    """English text that has nothing to do with the task, in windows of ``length`` tokens."""
    text = (paths.DATA / "texts" / "english.txt").read_text(encoding="utf-8")
    tokens = tokenizer(text)["input_ids"][: count * length]
    return Dataset.from_dict({"input_ids": torch.tensor(tokens).view(-1, length).tolist()})


def train(arm: str, options: argparse.Namespace) -> list[float]:
    """Parameters of one arm, then loss on task and probe, before and after, in nats per token."""
    folder = models.weights(options.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    table = scan(model)
    chosen = select(table, arm, share=SHARE, seed=options.seed)
    targets = chosen.peft_targets()
    lora = LoraConfig(r=options.rank, lora_alpha=options.rank, task_type="CAUSAL_LM", **targets)
    torch.manual_seed(options.seed)
    model = get_peft_model(model, lora)
    learning, held_out = sentences(tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            scratch,
            max_steps=options.steps,
            per_device_train_batch_size=8,
            learning_rate=options.lr,
            lr_scheduler_type="constant",
            seed=options.seed,
            save_strategy="no",
            report_to="none",
        )
        collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        trainer = Trainer(model, arguments, data_collator=collator, train_dataset=learning)
        tests = [held_out, passages(tokenizer)]
        before = [trainer.evaluate(data)["eval_loss"] for data in tests]
        trainer.train()
        after = [trainer.evaluate(data)["eval_loss"] for data in tests]
    return [model.get_nb_trainable_parameters()[0], *before, *after]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=models.DEFAULT, help="a folder or model hub id")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    found = {name: train(arm, options) for arm, name in ARMS.items()}
    print("Loss in nats per token, before → after; a rise on the probe is forgetting.")
    print("arm                     trained   task: German       probe: English")
    for name, (trained, *losses) in found.items():
        task, probe, learned, kept = losses
        print(f"{name:20} {trained:10,}   {task:.3f} → {learned:.3f}      {probe:.3f} → {kept:.3f}")


if __name__ == "__main__":
    main()
