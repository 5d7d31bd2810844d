"""Convert a T5 encoder's checkpoint for CTranslate2, in the peers' environment.

CTranslate2 converts whole T5 models only; its encoder model takes the same layers, so they are filled in here. Nothing
differs from Hugging Face's T5 but how CTranslate2 computes it: the same products, ReLU, RMS norms and position bias.

    python benchmarks/encoder_ctranslate2.py CHECKPOINT OUTPUT
"""

import json
import sys
from pathlib import Path

import numpy as np
from ctranslate2.specs import common_spec, transformer_spec
from safetensors.numpy import load_file


def main() -> None:
    checkpoint, output = map(Path, sys.argv[1:])
    config = json.loads((checkpoint / "config.json").read_text())
    weights = load_file(checkpoint / "model.safetensors")
    encoder = transformer_spec.TransformerEncoderSpec(
        config["num_layers"],
        config["num_heads"],
        pre_norm=True,
        activation=common_spec.Activation.RELU,
        relative_attention_bias=True,
        rms_norm=True,
    )
    encoder.embeddings[0].weight = weights["shared.weight"]
    encoder.scale_embeddings = False
    encoder.layer_norm.gamma = weights["encoder.final_layer_norm.weight"]
    bias = weights["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    for i, layer in enumerate(encoder.layer):
        attention, mlp = layer.self_attention, layer.ffn
        prefix = f"encoder.block.{i}.layer"
        projections = f"{prefix}.0.SelfAttention"
        attention.layer_norm.gamma = weights[f"{prefix}.0.layer_norm.weight"]
        attention.queries_scale = 1.0
        attention.linear[0].weight = np.concatenate([weights[f"{projections}.{name}.weight"] for name in "qkv"])
        attention.linear[1].weight = weights[f"{projections}.o.weight"]
        attention.relative_attention_bias = bias
        attention.relative_attention_max_distance = np.dtype("int32").type(config["relative_attention_max_distance"])
        mlp.layer_norm.gamma = weights[f"{prefix}.1.layer_norm.weight"]
        mlp.linear_0.weight = weights[f"{prefix}.1.DenseReluDense.wi.weight"]
        mlp.linear_1.weight = weights[f"{prefix}.1.DenseReluDense.wo.weight"]
    model = transformer_spec.TransformerEncoderModelSpec(encoder)
    model.register_vocabulary([f"<{i}>" for i in range(config["vocab_size"])])
    model.config.unk_token = "<0>"
    model.validate()
    output.mkdir(parents=True, exist_ok=True)
    model.save(str(output))


if __name__ == "__main__":
    main()
