"""MLP blocks are found in torch modules of any family."""

import pytest
import torch
import transformers

from lazyneuron.exporters.finetune.find import find_blocks
from lazyneuron.exporters.finetune.models import rectified

IDS = {"input_ids": torch.arange(6).reshape(1, 6)}
LLAMA = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40, "vocab_size": 20}
VIT = LLAMA | {"image_size": 16, "patch_size": 8}
OPT = LLAMA | {"word_embed_proj_dim": 16, "ffn_dim": 40}
GPT2 = {"n_embd": 16, "n_inner": 40, "n_layer": 2, "n_head": 2, "vocab_size": 20}
DISTILBERT = {"dim": 16, "hidden_dim": 40, "n_layers": 2, "n_heads": 2, "vocab_size": 20}
T5 = {"d_model": 16, "d_ff": 40, "num_layers": 2, "num_heads": 2, "d_kv": 8, "vocab_size": 20}

MODELS = {
    "opt": ("OPTForCausalLM", "OPTConfig", OPT),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "bert": ("BertForMaskedLM", "BertConfig", LLAMA),
    "distilbert": ("DistilBertModel", "DistilBertConfig", DISTILBERT),
    "t5": ("T5EncoderModel", "T5Config", T5),
    "t5 v1.1": ("T5EncoderModel", "T5Config", T5 | {"feed_forward_proj": "gated-gelu"}),
    "vit": ("ViTModel", "ViTConfig", VIT),
}


@pytest.mark.parametrize("kind", MODELS)
def test_every_block_is_found_once_and_nothing_else(kind):
    model_class, config_class, sizes = MODELS[kind]
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**sizes)).eval()
    inputs = {"pixel_values": torch.zeros(1, 3, 16, 16)} if kind == "vit" else IDS
    blocks, _ = find_blocks(model, lambda: model(**inputs))
    assert [block.d_ff for block in blocks] == [40, 40]
    assert len({block.name for block in blocks}) == 2
    assert all(model.get_submodule(block.name) is block.down for block in blocks)


def test_what_is_no_block_is_named_with_its_reason():
    linear = torch.nn.Linear
    model = torch.nn.Sequential(linear(4, 4), torch.nn.ReLU(), linear(4, 6), torch.nn.LayerNorm(6), torch.nn.GELU())
    model.extend([linear(6, 8), torch.nn.ReLU(), torch.nn.LayerNorm(8), linear(8, 2)])
    blocks, reasons = find_blocks(model, lambda: model(torch.zeros(1, 4)))
    assert blocks == []
    assert reasons == [
        "1: 4 features become 4, not more",
        "4: no projection runs straight into it",
        "6: no projection takes its 8 neurons",
    ]


def test_only_smooth_activations_become_relu():
    before = {
        "hidden_act": "gelu_new",
        "activation": "tanh",
        "feed_forward_proj": "gated-gelu",
        "text_config": {"hidden_activation": "silu", "name": "gelu"},
        "layers": 3,
    }
    assert rectified(before) == {
        "hidden_act": "relu",
        "activation": "tanh",
        "feed_forward_proj": "gated-relu",
        "text_config": {"hidden_activation": "relu", "name": "gelu"},
        "layers": 3,
    }
