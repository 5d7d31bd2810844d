"""Each architecture from a configuration with random weights: exported, loaded and held to PyTorch."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import lazyneuron
from lazyneuron.engine.artifact import BATCH_AXIS
from lazyneuron.engine.errors import CheckpointError
from lazyneuron.exporters.sources import read_checkpoint
from tests.exporters.graphs import assert_close

TOLERANCE = 1e-4
"""What the design promises for exact mode, in float32."""
VOCABULARY = 97
LENGTHS = (5, 19, 1, 8, 19, 2, 13)

BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 72}
VIT = BERT | {"image_size": 16, "patch_size": 4, "hidden_act": "relu"}


def t5():
    config = transformers.T5Config(
        d_model=32, d_kv=8, d_ff=72, num_layers=2, num_heads=4, vocab_size=VOCABULARY, feed_forward_proj="relu"
    )
    return transformers.T5ForConditionalGeneration(config)


def opt(**more):
    config = transformers.OPTConfig(
        hidden_size=32,
        word_embed_proj_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=72,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        **more,
    )
    return transformers.OPTForCausalLM(config)


def bert(act="relu"):
    config = transformers.BertConfig(
        **BERT, vocab_size=VOCABULARY, hidden_act=act, max_position_embeddings=64, num_labels=3
    )
    return transformers.BertForSequenceClassification(config)


MAKERS = {
    "t5": (t5, "last_hidden_state", "feature-extraction"),
    "opt": (opt, "logits", "text-generation"),
    "opt-post-norm": (lambda: opt(do_layer_norm_before=False), "logits", "text-generation"),
    "bert": (lambda: transformers.BertModel(bert().config), "last_hidden_state", "feature-extraction"),
    "bert-classifier": (bert, "logits", "text-classification"),
    "vit": (
        lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**VIT, num_labels=5)),
        "logits",
        "image-classification",
    ),
    "vit-base": (
        lambda: transformers.ViTModel(transformers.ViTConfig(**VIT)),
        "last_hidden_state",
        "image-feature-extraction",
    ),
}


def make(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = MAKERS[name][0]().eval()
    with torch.no_grad():  # random biases, since zeros would hide one that got lost
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module", params=MAKERS)
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model = make(request.param)
    model.save_pretrained(folder / "checkpoint")
    task = MAKERS[request.param][2]  # of a T5 with both halves, the encoder's
    report = lazyneuron.export(folder / "checkpoint", folder / "models" / request.param, task=task)
    torch_model = model.encoder if request.param == "t5" else model
    return torch_model, lazyneuron.load(report.path), report, MAKERS[request.param]


def text(lengths) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(7)
    return [{"input_ids": rng.integers(3, VOCABULARY, (1, n))} for n in lengths]


def requests_for(model, count: int) -> list[dict[str, np.ndarray]]:
    if model.manifest.task.startswith("image"):
        rng = np.random.default_rng(7)
        return [{"pixel_values": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(count)]
    return text(LENGTHS[:count])


@pytest.mark.parametrize("count", [1, 7])
def test_outputs_are_pytorchs(exported, count):
    torch_model, model, _, (_, output, _) = exported
    asked = requests_for(model, count)
    result = model.run([model.request(inputs) for inputs in asked])
    for inputs, prediction in zip(asked, result.predictions, strict=True):
        with torch.no_grad():
            expected = getattr(torch_model(**{k: torch.from_numpy(v) for k, v in inputs.items()}), output).numpy()
        assert prediction.outputs[output].shape == expected.shape
        assert_close(prediction.outputs[output], expected, tolerance=TOLERANCE)


def test_counts_are_pytorchs(exported):
    torch_model, model, _, _ = exported
    (inputs,) = requests_for(model, 1)
    active: list[int] = []
    hooks = [
        module.register_forward_hook(lambda m, a, out: active.append(int((out > 0).sum())))
        for module in torch_model.modules()
        if type(module).__name__ in {"ReLU", "ReLUActivation"}
    ]
    with torch.no_grad():
        torch_model(**{k: torch.from_numpy(v) for k, v in inputs.items()})
    for hook in hooks:
        hook.remove()
    assert len(active) >= 2
    counted = [block.active for block in model.predict(inputs).sparsity.blocks]
    assert np.abs(np.array(counted) - active[-2:]).max() <= 1  # a value may fall on the other side of 0


def test_padding_is_skipped(exported):
    _, model, _, _ = exported
    if model.manifest.task.startswith("image"):
        pytest.skip("images have no padding")
    result = model.run([model.request(inputs) for inputs in text((4, 16))])
    assert result.tokens_padding == 12
    assert result.flops_padding_skipped > 0


def test_the_manifest_says_what_it_is(exported):
    _, model, report, (_, output, task) = exported
    manifest = model.manifest
    assert (manifest.task, manifest.mode, manifest.source.kind) == (task, "exact", "hugging_face")
    assert [o.name for o in manifest.outputs] == [output]
    assert manifest.outputs[0].shape[0] == BATCH_AXIS
    assert len(manifest.blocks) == 2
    assert {(b.d_model, b.d_ff, b.d_out) for b in manifest.blocks} == {(32, 72, 32)}
    assert manifest.budget_input == "lazyneuron.budget"
    assert manifest.calibration.kind == "random"
    assert "random input" in manifest.notes[0]
    assert manifest.quality.outputs[0].max_rel_error <= TOLERANCE
    if not task.startswith("image"):
        ids = manifest.inputs[0]
        assert (ids.role, ids.minimum, ids.maximum) == ("tokens", 0, VOCABULARY - 1)
    if task.endswith("classification"):
        assert len(manifest.labels) == manifest.outputs[0].shape[-1]
    page = report.report.read_text()
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "random input" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_float16_checkpoints_compute_in_float32(tmp_path):
    model = make("bert").half()
    model.save_pretrained(tmp_path / "checkpoint")
    report = lazyneuron.export(tmp_path / "checkpoint", tmp_path / "half")
    loaded, inputs = lazyneuron.load(report.path), text((9,))[0]
    with torch.no_grad():
        expected = model.float()(input_ids=torch.from_numpy(inputs["input_ids"])).last_hidden_state.numpy()
    assert_close(loaded.predict(inputs).outputs["last_hidden_state"], expected, tolerance=TOLERANCE)


class TestRefusals:
    @pytest.fixture
    def checkpoint(self, tmp_path):
        make("bert").save_pretrained(tmp_path / "checkpoint")
        return tmp_path / "checkpoint"

    def test_corrupt_safetensors(self, checkpoint):
        weights = checkpoint / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged safetensors"):
            read_checkpoint(str(checkpoint))

    def test_pickled_weights(self, checkpoint):
        (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match=r"pickled \(pytorch_model\.bin\).*save_pretrained"):
            read_checkpoint(str(checkpoint))

    def test_no_weights(self, checkpoint):
        (checkpoint / "model.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"no safetensors in it"):
            read_checkpoint(str(checkpoint))

    def test_no_config(self, checkpoint):
        (checkpoint / "config.json").unlink()
        with pytest.raises(CheckpointError, match=r"no config\.json in it"):
            read_checkpoint(str(checkpoint))

    def test_config_is_not_json(self, checkpoint):
        (checkpoint / "config.json").write_text("{")
        with pytest.raises(CheckpointError, match=r"config\.json is not readable as JSON"):
            read_checkpoint(str(checkpoint))

    def test_unknown_family(self, checkpoint):
        config = json.loads((checkpoint / "config.json").read_text())
        (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "parrot"}))
        with pytest.raises(
            CheckpointError, match=r"model_type 'parrot' is not known; expected wav2vec2, .* or another"
        ):
            read_checkpoint(str(checkpoint))

    def test_a_head_that_the_family_lacks(self, checkpoint):
        with pytest.raises(CheckpointError, match=r"a bert model has no image-classification head here"):
            read_checkpoint(str(checkpoint), "image-classification")

    def test_a_head_that_the_checkpoint_has_no_weights_for(self, checkpoint):
        with pytest.raises(CheckpointError, match=r"no weights for 2 tensors of a text-classification model"):
            read_checkpoint(str(checkpoint), "text-classification")

    def test_a_tensor_is_missing(self, checkpoint):
        tensors = load_file(checkpoint / "model.safetensors")
        del tensors["encoder.layer.1.output.dense.weight"]
        save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=r"no weights for 1 tensors"):
            read_checkpoint(str(checkpoint))

    def test_what_exact_skipping_cannot_help_is_told_with_the_numbers(self, tmp_path):
        torch.manual_seed(0)
        bert("gelu").save_pretrained(tmp_path / "checkpoint")
        words = r"cannot help this checkpoint: 100\.0% of the neurons are active \(gelu has hardly a zero\).*--top-k"
        with pytest.raises(CheckpointError, match=words) as caught:
            lazyneuron.export(tmp_path / "checkpoint", tmp_path / "models" / "gelu")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "models").exists()
        report = lazyneuron.export(tmp_path / "checkpoint", tmp_path / "models" / "gelu", top_k=9)
        assert {(b.operator, b.activation, b.top_k) for b in report.manifest.blocks} == {("SparseDown", "gelu", 9)}
        assert report.manifest.quality.outputs[0].max_rel_error > 1e-3
        assert not report.sparsity.verdict.helps

    def test_a_missing_folder_is_not_looked_for_on_a_hub(self, tmp_path):
        with pytest.raises(CheckpointError, match="no such file or folder"):
            read_checkpoint(str(tmp_path / "missing"))
