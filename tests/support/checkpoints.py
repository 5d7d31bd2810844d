"""Tiny Hugging Face checkpoints with random weights, tokenizers and image processors, made on the spot."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WORDS = "the lazy neurons sleep while few of them work and save much time for all who wait here"
PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK]".split() + WORDS.split() + "##s ##ing ##er sav ##e .".split()  # noqa: SIM905

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 72}
_BERT: dict[str, Any] = _SIZES | {"vocab_size": len(PIECES), "hidden_act": "relu", "max_position_embeddings": 48}
_VIT: dict[str, Any] = _SIZES | {"image_size": 24, "patch_size": 8, "hidden_act": "relu"}


def word_pieces() -> Tokenizer:
    """BERT's kind: lower case, word pieces, `[CLS]` before and `[SEP]` after."""
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(PIECES[:5])
    return tokenizer


def bytes_with_start() -> Tokenizer:
    """OPT's kind: bytes, `</s>` before the text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(["<s>", "<pad>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>"])
    return tokenizer


def save(folder: Path, model: torch.nn.Module, *, seed: int = 0, spread: float = 4.0) -> torch.nn.Module:
    """Save a model with random weights large enough for its classes to differ; return it."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, spread * 0.05 if parameter.ndim > 1 else 0.5)
    model.eval().save_pretrained(folder)
    return model


def bert(folder: Path, kind: str, **config: Any) -> torch.nn.Module:
    """Write a BERT with a head, such as `ForMaskedLM`, and its tokenizer."""
    model = getattr(transformers, f"Bert{kind}")(transformers.BertConfig(**_BERT | config))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=word_pieces(),
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    fast.save_pretrained(folder)
    return save(folder, model)


def opt(folder: Path) -> torch.nn.Module:
    """Write an OPT that reads bytes."""
    tokenizer = bytes_with_start()
    config = transformers.OPTConfig(
        hidden_size=32,
        word_embed_proj_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=72,
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=64,
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(folder)
    return save(folder, transformers.OPTForCausalLM(config))


def vit(folder: Path, **config: Any) -> torch.nn.Module:
    """Write a ViT classifier and its image processor."""
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**_VIT, **config))
    transformers.ViTImageProcessor(size={"height": 24, "width": 24}).save_pretrained(folder)
    return save(folder, model, spread=1.5)


def detr(folder: Path, **config: Any) -> torch.nn.Module:
    """Write a DETR and its image processor, which keeps an image's shape."""
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    model = transformers.DetrForObjectDetection(
        transformers.DetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=backbone,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            num_queries=12,
            **config,
        )
    )
    transformers.DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return save(folder, model, spread=3.0)


def t5(folder: Path) -> torch.nn.Module:
    """Write a T5 and a tokenizer that ends each text with `[SEP]`."""
    config = transformers.T5Config(
        d_model=32, d_kv=8, d_ff=72, num_layers=2, num_heads=4, vocab_size=len(PIECES), decoder_start_token_id=0,
        eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=word_pieces(), eos_token="[SEP]", pad_token="[PAD]")
    fast.save_pretrained(folder)
    return save(folder, transformers.T5ForConditionalGeneration(config))
