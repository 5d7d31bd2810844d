"""A T5-base-shaped encoder with random weights whose MLP blocks are as sparse as trained ones.

Twelve layers, d_model 768, d_ff 3072, 12 heads, ReLU, relative position bias, RMS norms: Hugging Face's T5 with a small
vocabulary. Three things are planted, layer by layer, on the rows that the layers before really give:

- the density of each block. T5 has no biases, so, as in trained models, a direction that all rows have in common acts
  as one: the part of a neuron's weights along it is the quantile of the neuron's projections that leaves the density;
- variances that fall off exponentially in a common rotated basis, in rows and in neurons alike, which is what makes
  trained blocks easy to screen: the fall is chosen so that the certified screen's candidates are about 1.5 times the
  active neurons, as trained weights with balanced channels give;
- MLP blocks that each add a tenth of the residual stream's energy, and attention that adds little.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

__all__ = ["DENSITIES", "FALL", "PREDICTABLE_FALL", "VOCABULARY", "densities", "plant"]

VOCABULARY = 4096
DENSITIES = (0.080, 0.055, 0.042, 0.034, 0.028, 0.024, 0.021, 0.018, 0.016, 0.013, 0.011, 0.018)
"""T5-Base's mean, 3.0 %, is the paper's (arXiv 2210.06313); its text gives no figures for single blocks, so these are
made up to have that mean, from 8 % in the first block down to about 1 %."""
FALL = 85.0
PREDICTABLE_FALL = 30.0
"""Directions over which the variance falls to 1 / e: for the certified screen, and for a checkpoint whose neurons a
predictor of rank 64 finds with 1 to 3 times as many candidates as there are active ones, as trained weights have.
"""
_COMMON = 0.25  # the share of a row's energy along the common direction, at the embedding
_MLP, _ATTENTION = 0.1, 0.004
"""The energy that a branch adds, in shares of the residual stream's. Random attention averages its values, so it adds
less in longer examples; what it adds is kept small, so that densities are the same at every length."""


def densities(layers: int) -> tuple[float, ...]:
    """Return the planted densities of the first layers."""
    return DENSITIES[:layers]


def plant(folder: Path, *, layers: int = 12, seed: int = 0, fall: float = FALL) -> None:
    """Write the checkpoint (a Hugging Face folder)."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # Hugging Face draws from the global generator
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=768,
        d_kv=64,
        d_ff=3072,
        num_layers=layers,
        num_heads=12,
        feed_forward_proj="relu",
        dropout_rate=0.0,
        use_cache=False,
    )
    model = transformers.T5EncoderModel(config).eval()
    # Many short examples: what one example's rows have in common must not be fitted.
    ids = torch.randint(3, VOCABULARY, (128, 40), generator=generator)
    with torch.inference_mode():
        _Planter(model, generator, fall).run(ids)
    model.save_pretrained(folder)


class _Planter:
    """Fills a model's weights; `rows` is what the calibration ids have become so far, [examples, tokens, D]."""

    def __init__(self, model: torch.nn.Module, generator: torch.Generator, fall: float) -> None:
        self._encoder = model.encoder
        self._shared = model.shared
        self._generator = generator
        d = model.config.d_model
        basis = torch.linalg.qr(self._draw(d, d))[0].T
        spread = torch.exp(-0.5 * torch.arange(d) / fall)
        spread[0] = 0.0  # the first direction is the common one
        self._common = basis[0]
        self._shape = (spread * np.sqrt(d) / spread.norm())[:, None] * basis  # [direction, channel]

    def run(self, ids: torch.Tensor) -> None:
        self._fill(self._shared.weight, self._rows(VOCABULARY) + self._common * self._common_length())
        rows = self._shared(ids)
        stack = self._encoder.block
        position_bias = None
        for block, density in zip(stack, DENSITIES, strict=False):
            attention, mlp = block.layer[0], block.layer[1]
            rows, position_bias = self._attention(attention, rows, position_bias)
            rows = self._mlp(mlp, rows, density)

    def _attention(
        self, layer: torch.nn.Module, rows: torch.Tensor, position_bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        part = layer.SelfAttention
        for projection in (part.q, part.k, part.v):  # blind to the common direction
            w = projection.weight
            self._fill(w, w - (w @ self._common)[:, None] * self._common)
        self._fill(part.o.weight, self._rows(part.o.weight.shape[1]).T)
        length = rows.shape[1]
        if position_bias is None:
            position_bias = part.compute_bias(length, length)
        added = layer(rows, position_bias=position_bias)[0] - rows
        scale = self._branch_scale(rows, added, _ATTENTION)
        self._fill(part.o.weight, part.o.weight * scale)
        return rows + added * scale, position_bias

    def _mlp(self, layer: torch.nn.Module, rows: torch.Tensor, density: float) -> torch.Tensor:
        x = layer.layer_norm(rows).reshape(-1, rows.shape[-1])
        dense = layer.DenseReluDense
        neurons, channels = dense.wi.weight.shape
        up = self._rows(neurons) / np.sqrt(channels)
        along = x @ self._common
        if along.min() <= 0:
            raise SystemExit("a row has lost the common direction; nothing can be planted")
        projected = (x @ up.T) / along[:, None]
        needed = torch.from_numpy(np.quantile(projected.numpy(), 1 - density, axis=0).astype(np.float32))
        self._fill(dense.wi.weight, up - needed[:, None] * self._common)
        self._fill(dense.wo.weight, self._rows(neurons).T)
        added = (torch.relu(x @ dense.wi.weight.T) @ dense.wo.weight.T).reshape(rows.shape)
        scale = self._branch_scale(rows, added, _MLP)
        self._fill(dense.wo.weight, dense.wo.weight * scale)
        return rows + added * scale

    @staticmethod
    def _branch_scale(rows: torch.Tensor, added: torch.Tensor, energy: float) -> float:
        return float(torch.sqrt(energy * rows.square().mean() / added.square().mean()))

    def _common_length(self) -> float:
        return float(np.sqrt(self._common.numel() * _COMMON / (1 - _COMMON)))

    def _rows(self, count: int) -> torch.Tensor:
        """Gaussian rows [count, D] in the common basis, about one in each channel."""
        return self._draw(count, len(self._shape)) @ self._shape

    def _draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator)

    @staticmethod
    def _fill(parameter: torch.nn.Parameter, values: torch.Tensor) -> None:
        parameter.data = values.contiguous()
