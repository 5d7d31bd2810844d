"""How much memory an export takes, as a multiple of the checkpoint's size.

An OPT with random weights is written as a Hugging Face folder and exported in a process of its own, whose peak is told:
of all that was resident, and of what was its own and no mapped file's, which the kernel can drop and read again; the
latter for each of the export's steps, too. One layer has a d_model of 1,024: 12 of them are 0.64 GB in float32, 60 are
3 GB.

    python benchmarks/export_memory.py [--layers N] [--mode exact]
"""

import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import click

_D_MODEL, _VOCABULARY = 1024, 8192
_TEXTS = ["the lazy neurons sleep while few of them work", "most of the time is saved"]


def write_checkpoint(folder: Path, layers: int) -> int:
    """Write the checkpoint; return the bytes of its weights."""
    import tokenizers
    import torch
    import transformers

    known = sorted({word for text in _TEXTS for word in text.split()})
    words = {word: i for i, word in enumerate(["</s>", "<pad>", "<unk>", *known])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    config = transformers.OPTConfig(
        hidden_size=_D_MODEL,
        word_embed_proj_dim=_D_MODEL,
        num_hidden_layers=layers,
        num_attention_heads=16,
        ffn_dim=4 * _D_MODEL,
        vocab_size=_VOCABULARY,
        max_position_embeddings=128,
    )
    model = transformers.OPTForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.fc1.bias.fill_(-1.0)
    model.save_pretrained(folder)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(folder)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@dataclass
class Peak:
    """The most bytes that a process had resident, and those of them that are no file's; by step, too; its seconds."""

    resident: int = 0
    own: int = 0
    steps: dict[str, tuple[int, int]] = field(default_factory=dict)
    seconds: float = 0.0


def peak(command: list[str]) -> Peak:
    """Run a command whose standard error tells its steps, and watch its memory."""
    started = time.perf_counter()
    found, step = Peak(), ["starting"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        reader = threading.Thread(target=_follow, args=(process, step))
        reader.start()
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            try:
                fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            except (FileNotFoundError, ProcessLookupError):
                break
            if "VmHWM" in fields:
                own = 1024 * int(fields["RssAnon"].split()[0])
                found.resident = max(found.resident, 1024 * int(fields["VmHWM"].split()[0]))
                found.own = max(found.own, own)
                now, most = 1024 * int(fields["VmRSS"].split()[0]), found.steps.get(step[0], (0, 0))
                found.steps[step[0]] = (max(most[0], now), max(most[1], own))
            time.sleep(0.02)
        reader.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}: {step[0]}")
    found.seconds = time.perf_counter() - started
    return found


def _follow(process: "subprocess.Popen[str]", step: list[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip():
            step[0] = line.strip()


@click.command()
@click.option("--layers", default=12, show_default=True, type=click.IntRange(min=1))
@click.option("--mode", default="exact", show_default=True)
def main(layers: int, mode: str) -> None:
    """Write, export, print."""
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        folder = Path(scratch)
        size = write_checkpoint(folder / "checkpoint", layers)
        libraries = "import torch, transformers, onnxruntime, lazyneuron.exporters.api"
        idle = peak([sys.executable, "-c", libraries])
        data = folder / "data.jsonl"
        data.write_text("".join(f'{{"text": "{text}"}}\n' for text in _TEXTS * 8))
        export = [sys.executable, "-m", "lazyneuron", "export", str(folder / "checkpoint"), "--mode", mode]
        found = peak([*export, "--output", str(folder / "model"), "--calibration", str(data)])
    print(f"checkpoint {size / 1e9:.2f} GB, export {found.seconds:.0f} s")
    print(f"the libraries alone: {idle.resident / 1e9:.2f} GB resident, of it no file's {idle.own / 1e9:.2f} GB")
    print("beyond the libraries, in times the checkpoint's size: resident, of it no file's")
    for step, (resident, own) in found.steps.items():
        shares = f"{(resident - idle.resident) / size:5.2f} {(own - idle.own) / size:5.2f}"
        print(f"  {shares}  {step.replace(scratch, '…')}")
    for name, value, alone in (("resident", found.resident, idle.resident), ("of it no file's", found.own, idle.own)):
        shares = f"{value / size:.2f} times the checkpoint's size, {(value - alone) / size:.2f} beyond the libraries"
        print(f"peak {name}: {value / 1e9:.2f} GB, {shares}")


if __name__ == "__main__":
    main()
