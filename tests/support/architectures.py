"""Architectures from small configurations with random weights, and holding their exports to PyTorch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers as hf

from lazyneuron.engine.artifact import Axes, InputSpec
from lazyneuron.engine.session import open_session
from lazyneuron.exporters import plan
from lazyneuron.exporters.blocks import Block, find_blocks
from lazyneuron.exporters.calibration import BlockCounts
from lazyneuron.exporters.rewrite import rewrite
from lazyneuron.exporters.sessions import save
from lazyneuron.exporters.settings import ExportSettings
from lazyneuron.exporters.sources import DenseModel, read_checkpoint

Feed = dict[str, np.ndarray]

VOCABULARY = 97
LENGTHS = (5, 19, 1, 8, 13)

_TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_PLAIN = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 72}
_TEXT = _PLAIN | {"vocab_size": VOCABULARY, "max_position_embeddings": 64}
_CAUSAL = _PLAIN | _TOKENS | {"max_position_embeddings": 64}
_GROUPED = _CAUSAL | {"num_key_value_heads": 2}
_GEMMA = _CAUSAL | {"num_key_value_heads": 1, "head_dim": 8}
_GPT = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_inner": 72, "n_positions": 64, **_TOKENS}
_IMAGE = _PLAIN | {"image_size": 16, "patch_size": 4}
_RATIO = {k: v for k, v in _IMAGE.items() if k != "intermediate_size"} | {"mlp_ratio": 2}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 72, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4}
_T5 |= {"vocab_size": VOCABULARY, "decoder_start_token_id": 0}
_HALVES = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 72,
    "decoder_ffn_dim": 72,
}
_SEQ2SEQ = _HALVES | {"max_position_embeddings": 64, **_TOKENS, "decoder_start_token_id": 2}
_SPEECH = _HALVES | _TOKENS | {"num_mel_bins": 8, "max_source_positions": 30, "max_target_positions": 40}
_SOUND = _PLAIN | {"vocab_size": VOCABULARY, "conv_dim": [8, 8], "conv_stride": [20, 16], "conv_kernel": [20, 16]}
_SOUND |= {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
_OPT = {"hidden_size": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "ffn_dim": 72}
_DISTIL = {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 72, "vocab_size": VOCABULARY}
_XGLM = {"d_model": 32, "num_layers": 1, "attention_heads": 4, "ffn_dim": 72, "vocab_size": VOCABULARY}
_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
_SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
_SEGFORMER = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}


def _detr() -> torch.nn.Module:
    backbone = hf.ResNetConfig(**_RESNET, out_features=["stage4"])
    config = hf.DetrConfig(**_HALVES, num_queries=7, use_timm_backbone=False, backbone=None, backbone_config=backbone)
    return hf.DetrForObjectDetection(config)


def _made(model: str, config: str, **options: object) -> Callable[[], torch.nn.Module]:
    return lambda: getattr(hf, model)(getattr(hf, config)(**options))


ARCHITECTURES: dict[str, Callable[[], torch.nn.Module]] = {
    "T5 v1.0 (relu)": _made("T5ForConditionalGeneration", "T5Config", **_T5),
    "T5 v1.1 (gated gelu)": _made(
        "T5ForConditionalGeneration", "T5Config", **_T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
    "T5 v1.1 (gated relu)": _made("T5ForConditionalGeneration", "T5Config", **_T5, feed_forward_proj="gated-relu"),
    "T5 encoder": _made("T5EncoderModel", "T5Config", **_T5),
    "M2M100": _made("M2M100ForConditionalGeneration", "M2M100Config", **_SEQ2SEQ),
    "DETR": _detr,
    "Whisper": _made("WhisperForConditionalGeneration", "WhisperConfig", **_SPEECH),
    "GPT-2 (gelu_new)": _made("GPT2LMHeadModel", "GPT2Config", **_GPT),
    "GPT-2 (relu)": _made("GPT2LMHeadModel", "GPT2Config", **_GPT, activation_function="relu"),
    "Llama": _made("LlamaForCausalLM", "LlamaConfig", **_CAUSAL),
    "Llama (relu, biases)": _made("LlamaForCausalLM", "LlamaConfig", **_CAUSAL, hidden_act="relu", mlp_bias=True),
    "Gemma": _made("GemmaForCausalLM", "GemmaConfig", **_GEMMA),
    "Switch": _made(
        "SwitchTransformersForConditionalGeneration",
        "SwitchTransformersConfig",
        **_T5,
        num_experts=2,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
    ),
    "OPT": _made("OPTForCausalLM", "OPTConfig", **_OPT, vocab_size=VOCABULARY, max_position_embeddings=64),
    "BERT (gelu)": _made("BertModel", "BertConfig", **_TEXT),
    "BERT (relu, fill-mask)": _made("BertForMaskedLM", "BertConfig", **_TEXT, hidden_act="relu"),
    "ViT (gelu)": _made("ViTForImageClassification", "ViTConfig", **_IMAGE),
    "BART": _made("BartForConditionalGeneration", "BartConfig", **_SEQ2SEQ),
    "mBART": _made("MBartForConditionalGeneration", "MBartConfig", **_SEQ2SEQ),
    "Marian (swish)": _made("MarianMTModel", "MarianConfig", **_SEQ2SEQ, activation_function="swish"),
    "Pegasus (relu)": _made("PegasusForConditionalGeneration", "PegasusConfig", **_SEQ2SEQ, activation_function="relu"),
    "Blenderbot": _made("BlenderbotForConditionalGeneration", "BlenderbotConfig", **_SEQ2SEQ),
    "mT5": _made("MT5ForConditionalGeneration", "MT5Config", **_T5),
    "UMT5": _made("UMT5ForConditionalGeneration", "UMT5Config", **_T5),
    "LongT5": _made("LongT5ForConditionalGeneration", "LongT5Config", **_T5, local_radius=4),
    "Mistral": _made("MistralForCausalLM", "MistralConfig", **_GROUPED),
    "Mixtral": _made("MixtralForCausalLM", "MixtralConfig", **_GROUPED, num_local_experts=3),
    "Qwen2": _made("Qwen2ForCausalLM", "Qwen2Config", **_GROUPED),
    "Qwen2-MoE": _made(
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        **_GROUPED,
        num_experts=3,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=40,
    ),
    "Qwen3": _made("Qwen3ForCausalLM", "Qwen3Config", **_GROUPED, head_dim=8),
    "Gemma 2": _made("Gemma2ForCausalLM", "Gemma2Config", **_GEMMA),
    "Gemma 3": _made("Gemma3ForCausalLM", "Gemma3TextConfig", **_GEMMA),
    "Phi": _made("PhiForCausalLM", "PhiConfig", **_CAUSAL),
    "Phi-3": _made("Phi3ForCausalLM", "Phi3Config", **_CAUSAL),
    "Falcon": _made(
        "FalconForCausalLM",
        "FalconConfig",
        **{k: v for k, v in _CAUSAL.items() if k[-5:] != "_size"} | {"hidden_size": 32, "vocab_size": VOCABULARY},
    ),
    "StarCoder2": _made("Starcoder2ForCausalLM", "Starcoder2Config", **_GROUPED),
    "StableLM": _made("StableLmForCausalLM", "StableLmConfig", **_CAUSAL, partial_rotary_factor=0.5),
    "Nemotron (relu2)": _made("NemotronForCausalLM", "NemotronConfig", **_GROUPED, head_dim=8),
    "GPT-Neo": _made(
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        hidden_size=32,
        num_layers=1,
        num_heads=4,
        intermediate_size=72,
        max_position_embeddings=64,
        attention_types=[[["global"], 1]],
        **_TOKENS,
    ),
    "GPT-NeoX": _made("GPTNeoXForCausalLM", "GPTNeoXConfig", **_CAUSAL),
    "GPT-J": _made("GPTJForCausalLM", "GPTJConfig", **_GPT, rotary_dim=4),
    "CodeGen": _made("CodeGenForCausalLM", "CodeGenConfig", **_GPT, rotary_dim=4, n_ctx=64),
    "BLOOM": _made("BloomForCausalLM", "BloomConfig", hidden_size=32, n_layer=1, n_head=4, **_TOKENS),
    "MPT": _made(
        "MptForCausalLM", "MptConfig", d_model=32, n_layers=1, n_heads=4, vocab_size=VOCABULARY, max_seq_len=64
    ),
    "XGLM (relu)": _made("XGLMForCausalLM", "XGLMConfig", **_XGLM, activation_function="relu"),
    "Mamba": _made("MambaForCausalLM", "MambaConfig", hidden_size=32, num_hidden_layers=1, state_size=4, **_TOKENS),
    "DistilBERT": _made("DistilBertForMaskedLM", "DistilBertConfig", **_DISTIL, max_position_embeddings=64),
    "RoBERTa (classifier)": _made("RobertaForSequenceClassification", "RobertaConfig", **_TEXT),
    "XLM-RoBERTa": _made("XLMRobertaForMaskedLM", "XLMRobertaConfig", **_TEXT),
    "ELECTRA": _made("ElectraModel", "ElectraConfig", **_TEXT, embedding_size=32),
    "ALBERT": _made("AlbertModel", "AlbertConfig", **_TEXT | {"num_hidden_layers": 2}, embedding_size=16),
    "DeBERTa v2": _made("DebertaV2Model", "DebertaV2Config", **_TEXT, relative_attention=True, pos_att_type=["p2c"]),
    "MPNet": _made("MPNetModel", "MPNetConfig", **_TEXT),
    "ModernBERT": _made("ModernBertModel", "ModernBertConfig", **_CAUSAL, cls_token_id=3, sep_token_id=4),
    "Nomic BERT": _made("NomicBertModel", "NomicBertConfig", **_TEXT),
    "ESM": _made("EsmModel", "EsmConfig", **_TEXT, pad_token_id=1, mask_token_id=3),
    "FNet": _made(
        "FNetModel",
        "FNetConfig",
        hidden_size=32,
        num_hidden_layers=1,
        intermediate_size=72,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
    ),
    "Longformer": _made("LongformerModel", "LongformerConfig", **_TEXT, attention_window=4),
    "DeiT": _made("DeiTForImageClassificationWithTeacher", "DeiTConfig", **_IMAGE),
    "BEiT": _made("BeitForImageClassification", "BeitConfig", **_IMAGE),
    "DINOv2": _made("Dinov2Model", "Dinov2Config", **_RATIO),
    "DINOv2 (SwiGLU)": _made("Dinov2Model", "Dinov2Config", **_RATIO, use_swiglu_ffn=True),
    "Swin": _made("SwinForImageClassification", "SwinConfig", **_SWIN),
    "ConvNeXt": _made(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        hidden_sizes=[8, 16],
        depths=[1, 1],
        num_stages=2,
        image_size=32,
    ),
    "SegFormer": _made("SegformerForImageClassification", "SegformerConfig", **_SEGFORMER, image_size=64),
    "YOLOS": _made(
        "YolosForObjectDetection", "YolosConfig", **_PLAIN, image_size=[32, 48], patch_size=8, num_detection_tokens=5
    ),
    "CLIP": _made("CLIPModel", "CLIPConfig", text_config=_CAUSAL, vision_config=_IMAGE, projection_dim=16),
    "CLIP (text)": _made("CLIPTextModel", "CLIPTextConfig", **_CAUSAL),
    "CLIP (vision)": _made("CLIPVisionModel", "CLIPVisionConfig", **_IMAGE),
    "SigLIP (vision)": _made("SiglipVisionModel", "SiglipVisionConfig", **_IMAGE),
    "wav2vec 2.0": _made("Wav2Vec2ForCTC", "Wav2Vec2Config", **_SOUND),
    "HuBERT": _made("HubertModel", "HubertConfig", **_SOUND),
}


def make(name: str) -> torch.nn.Module:
    """Make a model, with random biases: zeros would hide one that got lost."""
    torch.manual_seed(0)
    model = ARCHITECTURES[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@dataclass(frozen=True)
class Held:
    """How a rewritten graph compares with PyTorch.

    Attributes
    ----------
    mode
        The mode asked for.
    operators
        Operator, mode and activation of each block.
    error
        The largest error of an output, relative to its largest entry: alone, and in a ragged batch where there is one.
    """

    mode: str
    operators: list[tuple[str, str]]
    error: float
    batched: bool


@dataclass(frozen=True)
class Opened:
    """A checkpoint with its blocks."""

    module: torch.nn.Module
    dense: DenseModel
    blocks: dict[str, Block]
    skipped: list[tuple[str, str]]


def open_architecture(name: str, folder: Path, task: str | None = None) -> Opened:
    """Save an architecture's checkpoint, read it back as `export` does, and find its blocks."""
    module = make(name)
    module.save_pretrained(folder)
    dense = read_checkpoint(str(folder), task)
    ledger = find_blocks(dense.model)
    return Opened(module, dense, ledger.blocks, [(s.name, s.reason) for s in ledger.skipped.values()])


def hold(opened: Opened, mode: str, folder: Path) -> Held:
    """Replace every block, of whatever density, and compare with PyTorch at batch 1 and at several, ragged."""
    dense, blocks = opened.dense, list(opened.blocks.values())
    counts = [BlockCounts.empty(block.d_model, block.d_ff) for block in blocks]
    choices = dict(zip(opened.blocks, plan.choose(blocks, counts, ExportSettings(mode=mode)), strict=True))
    graph = rewrite(dense.model, dense.inputs, choices, use_masks=True)
    path = folder / f"{mode}.onnx"
    save(graph.model, path)
    session = open_session(path, sparse=True)
    examples = [_example(dense.inputs, length) for length in LENGTHS]
    batches = [[example] for example in examples]
    same = all(example[n].shape == examples[0][n].shape for example in examples for n in example)
    ragged = same or all(spec.pad is not None for spec in dense.inputs)
    batches += [examples] if ragged else []
    names = [spec.name for spec in dense.outputs]
    errors = [0.0]
    for batch in batches:
        found = session.run(names, _joined(dense.inputs, batch))
        for i, example in enumerate(batch):
            for spec, values, expected in zip(dense.outputs, found, _torch(opened, example), strict=True):
                actual = values[i : i + 1][_real(spec.shape, dense.inputs, example)]
                assert actual.shape == expected.shape, f"{spec.name}: {actual.shape}, PyTorch has {expected.shape}"
                errors.append(float(np.abs(actual - expected).max() / np.abs(expected).max()))
    ways = [(choice.mode, choice.block.computed) for choice in choices.values()]
    return Held(mode, ways, max(errors), ragged)


def _example(inputs: tuple[InputSpec, ...], length: int) -> Feed:
    rng = np.random.default_rng(length)
    lengths = {"sequence": length, "target": max(1, length // 2), "samples": 16_000 + 100 * length}
    lengths |= {"height": 64 + length, "width": 80 + length}
    example = {}
    for spec in inputs:
        shape = [lengths[axis] if isinstance(axis, str) else axis for axis in (1, *spec.shape[1:])]
        if spec.role in {"mask", "token_types"}:
            example[spec.name] = np.full(shape, spec.role == "mask").astype(spec.dtype)
        elif spec.role == "tokens":
            example[spec.name] = rng.integers(5, VOCABULARY, shape).astype(spec.dtype)
        else:
            example[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
    return example


def _joined(inputs: tuple[InputSpec, ...], batch: list[Feed]) -> Feed:
    def join(spec: InputSpec) -> Iterator[np.ndarray]:
        longest = np.max([example[spec.name].shape for example in batch], axis=0)
        fill = 0 if spec.role == "mask" else spec.pad or 0
        for example in batch:
            array = example[spec.name]
            edges = [(0, most - size) for most, size in zip(longest, array.shape, strict=True)]
            yield np.pad(array, edges, constant_values=fill)

    return {spec.name: np.concatenate(list(join(spec))) for spec in inputs}


def _real(axes: Axes, inputs: tuple[InputSpec, ...], example: Feed) -> tuple[slice, ...]:
    lengths = {a: n for s in inputs for a, n in zip(s.shape[1:], example[s.name].shape[1:], strict=True)}
    known = [slice(lengths[axis]) if axis in lengths and isinstance(axis, str) else slice(None) for axis in axes[1:]]
    return (slice(None), *known)


def _torch(opened: Opened, example: Feed) -> list[np.ndarray]:
    given = {name: torch.from_numpy(array) for name, array in example.items()}
    module = opened.module
    if opened.dense.task == "feature-extraction" and getattr(module.config, "is_encoder_decoder", False):
        module = module.get_encoder()
    with torch.no_grad():
        answer = module(**given)
    return [getattr(answer, spec.name).numpy() for spec in opened.dense.outputs]
