"""A small vision Transformer, with or without the paper's top-k in its MLPs.

"The Lazy Neuron Phenomenon" (arXiv 2210.06313, section 4) keeps the k largest activations of each token after the ReLU
and sets the rest to zero, in training and after it.
"""

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Up projection, ReLU, top-k (0: none), down projection."""

    def __init__(self, d_model: int, d_ff: int, top_k: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)
        self.top_k = top_k

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., d_model] to [..., d_model]."""
        h = torch.relu(self.up(x))
        if self.top_k:
            values, neurons = h.topk(self.top_k, dim=-1)
            h = torch.zeros_like(h).scatter(-1, neurons, values)
        out: Tensor = self.down(h)
        return out


class Layer(nn.Module):
    """A pre-norm Transformer layer."""

    def __init__(self, d_model: int, d_ff: int, heads: int, top_k: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.norm_mlp = nn.LayerNorm(d_model)
        self.mlp = MLP(d_model, d_ff, top_k)

    def attention(self, x: Tensor) -> Tensor:
        """Let every patch look at every other: [B, P, D] to [B, P, D]."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        out: Tensor = self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, P, D] to [B, P, D]."""
        x = x + self.attention(self.norm_attention(x))
        out: Tensor = x + self.mlp(self.norm_mlp(x))
        return out


class DigitsViT(nn.Module):
    """Images [B, 8, 8] of grey values 0 to 1 -> logits [B, 10] over the digits."""

    def __init__(self, *, top_k: int = 0, d_model: int = 64, d_ff: int = 1024, layers: int = 4) -> None:
        super().__init__()
        self.patch = 2
        patches = (8 // self.patch) ** 2
        self.embed = nn.Linear(self.patch**2, d_model)
        # Large enough to tell the patches apart from the first step on, for the mean over them forgets their order.
        self.position = nn.Parameter(torch.randn(patches, d_model) * 0.5)
        self.layers = nn.ModuleList(Layer(d_model, d_ff, heads=4, top_k=top_k) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Classify a batch of images."""
        p = self.patch
        patches = image.unflatten(2, (-1, p)).unflatten(1, (-1, p)).transpose(2, 3).flatten(3).flatten(1, 2)
        x = self.embed(patches) + self.position
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(self.norm(x).mean(dim=1))
        return logits
