"""Train the digits ViT: `python train.py --top-k 16 --output top16.safetensors` (0: plain ReLU)."""

import os
from pathlib import Path

import click
import data
import torch
from model import DigitsViT
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

EPOCHS, BATCH, PEAK_RATE = 40, 32, 1e-3


def train(top_k: int, label: str) -> DigitsViT:
    """Return a trained model; prints a line every ten epochs."""
    torch.manual_seed(0)
    train_x, test_x, train_y, test_y = map(torch.from_numpy, data.load())
    model = DigitsViT(top_k=top_k)
    steps = -(-len(train_x) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=EPOCHS * steps)
    for epoch in range(1, EPOCHS + 1):
        model.train()
        for rows in torch.randperm(len(train_x)).split(BATCH):
            loss = cross_entropy(model(train_x[rows]), train_y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        if epoch % 10 == 0:
            model.eval()
            with torch.no_grad():
                right = (model(test_x).argmax(-1) == test_y).float().mean().item()
            print(f"{label}: epoch {epoch} of {EPOCHS}, held-out accuracy {right:.1%}", flush=True)
    return model


@click.command()
@click.option("--top-k", default=0, show_default=True, help="Neurons kept for each token; 0: all.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--threads", default=1, show_default=True)
def main(top_k: int, output: Path, threads: int) -> None:
    """Train the model and write its weights."""
    torch.set_num_threads(threads)
    model = train(top_k, f"top-{top_k}" if top_k else "plain ReLU")
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    save_file(model.state_dict(), partial)
    partial.replace(output)


if __name__ == "__main__":
    main()
