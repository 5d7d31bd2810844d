"""`finetune` from a checkpoint to what is served."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import transformers

import lazyneuron
from lazyneuron.cli import main
from lazyneuron.engine.errors import CalibrationError, CheckpointError, ConfigurationError
from lazyneuron.exporters.finetune import training
from tests.support import checkpoints

TEXT = "the lazy neurons sleep while few of them work and save much time for all who wait here. "
K = 6


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    checkpoints.opt(folder / "opt")
    lines = [json.dumps({"text": TEXT[i : i + 60] * 2}) for i in range(40)]
    (folder / "data.jsonl").write_text("\n".join(lines))
    (folder / "more.txt").write_text(TEXT * 8)
    return folder


def options(files, **more):
    few = {"steps": 40, "batch": 4, "length": 32, "learning_rate": 3e-3, "top_k": K, "validate_every": 20}
    return few | {"data": [files / "data.jsonl", files / "more.txt"]} | more


@pytest.fixture(scope="module")
def report(files):
    return lazyneuron.finetune(files / "opt", files / "sparse", **options(files))


def weights(path):
    return transformers.OPTForCausalLM.from_pretrained(path).state_dict()


def test_distillation_brings_the_sparse_model_nearer(report):
    dense, untrained, tuned = (report.figures[name] for name in ("dense", "untrained", "tuned"))
    assert (dense["distance"], dense["agreement"]) == (0, 1)
    assert tuned["distance"] < 0.7 * untrained["distance"]
    assert tuned["agreement"] > untrained["agreement"]
    assert tuned["density"] <= K / 72 < dense["density"]
    assert report.steps == 40
    assert [entry["step"] for entry in report.history] == [1, 20, 40]


def test_the_output_is_a_checkpoint_of_the_same_kind(files, report):
    assert transformers.AutoTokenizer.from_pretrained(report.path)("the")["input_ids"]
    before, after = weights(files / "opt"), weights(report.path)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    config = json.loads((report.path / "config.json").read_text())
    assert config["lazyneuron"] == {"finetuned": True, "top_k": K}
    assert config["use_cache"] is True
    assert json.loads((report.path / "finetune.json").read_text())["figures"] == report.figures
    assert sorted(p.name for p in files.iterdir()) == ["data.jsonl", "more.txt", "opt", "sparse"]


def test_it_exports_with_its_top_k_and_serves(report, tmp_path):
    exported = lazyneuron.export(report.path, tmp_path / "m", mode="exact")
    assert [block.top_k for block in exported.manifest.blocks] == [K, K]
    other = lazyneuron.export(report.path, tmp_path / "other", mode="exact", top_k=3)
    assert [block.top_k for block in other.manifest.blocks] == [3, 3]
    ids = np.arange(3, 15)[None]
    served = lazyneuron.load(exported.path).predict({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert all(block.active <= K * ids.size for block in served.sparsity.blocks)
    module = transformers.OPTForCausalLM.from_pretrained(report.path).eval()
    for layer in module.model.decoder.layers:
        layer.fc2.register_forward_pre_hook(lambda _, taken: (reference_top_k(taken[0]),))
    with torch.no_grad():
        expected = module(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(served.outputs["logits"], expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_what_was_tuned_is_tuned_further_by_the_same_teacher(files, report, tmp_path):
    more = options(files, teacher=files / "opt", steps=20)
    further = lazyneuron.finetune(report.path, tmp_path / "further", **more)
    assert further.figures["dense"]["perplexity"] == pytest.approx(report.figures["dense"]["perplexity"], rel=1e-6)
    assert further.figures["untrained"]["distance"] == pytest.approx(report.figures["tuned"]["distance"], rel=1e-2)
    assert further.figures["tuned"]["distance"] < further.figures["untrained"]["distance"]


def test_a_teacher_of_another_kind_is_refused(files, tmp_path):
    gelu_bert(tmp_path / "bert")
    with pytest.raises((ConfigurationError, CheckpointError), match="bert: "):
        lazyneuron.finetune(files / "opt", tmp_path / "out", **options(files, teacher=tmp_path / "bert"))
    assert not (tmp_path / "out").exists()


def reference_top_k(values):
    least = values.sort(-1, descending=True).values[..., K - 1 : K]
    return torch.where(values >= least, values, torch.zeros_like(values))


def test_a_note_that_is_no_number_is_refused(report, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in report.path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"lazyneuron": {"top_k": "six"}}))
    with pytest.raises(CheckpointError, match=r"lazyneuron.top_k is 'six'; expected a whole number of at least 1"):
        lazyneuron.export(folder, tmp_path / "m")


def test_the_same_seed_gives_the_same_weights_and_another_does_not(files, report, tmp_path):
    again = lazyneuron.finetune(files / "opt", tmp_path / "again", **options(files))
    assert again.figures == report.figures
    assert all(
        torch.equal(a, b) for a, b in zip(weights(report.path).values(), weights(again.path).values(), strict=True)
    )
    other = lazyneuron.finetune(files / "opt", tmp_path / "other", **options(files, seed=1))
    assert other.figures["tuned"] != report.figures["tuned"]


def test_ctrl_c_saves_the_step_and_resume_goes_on_exactly(files, report, tmp_path, monkeypatch):
    output = tmp_path / "out"
    real, steps = training.Training._train, iter(range(100))

    def interrupted(self):
        loss = real(self)
        if next(steps) == 16:
            signal.raise_signal(signal.SIGINT)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "_train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lazyneuron.finetune(files / "opt", output, **options(files))
    assert [p.name for p in tmp_path.iterdir()] == ["out.state.pt"]
    assert torch.load(tmp_path / "out.state.pt", weights_only=True)["step"] == 17
    with pytest.raises(ConfigurationError, match=r"out.state.pt: the state of an interrupted run; go on with --resume"):
        lazyneuron.finetune(files / "opt", output, **options(files))
    with pytest.raises(ConfigurationError, match=r"its run had top_k 6, and this one has 7"):
        lazyneuron.finetune(files / "opt", output, **options(files, top_k=7, resume=True))
    resumed = lazyneuron.finetune(files / "opt", output, **options(files, resume=True))
    assert resumed.figures == report.figures
    assert all(torch.equal(a, b) for a, b in zip(weights(report.path).values(), weights(output).values(), strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_killed_run_goes_on_exactly(files, report, tmp_path):
    output, state = tmp_path / "out", tmp_path / "out.state.pt"
    data = [part for path in options(files)["data"] for part in ("--data", str(path))]
    flags = f"--steps 40 --batch 4 --length 32 --learning-rate 3e-3 --top-k {K} --validate-every 20 --save-every 1"
    command = [sys.executable, "-m", "lazyneuron", "finetune", str(files / "opt"), "--output", str(output)]
    command += [*data, *flags.split(), "--resume"]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not state.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    assert 1 <= torch.load(state, weights_only=True)["step"] < 40
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert all(torch.equal(a, b) for a, b in zip(weights(report.path).values(), weights(output).values(), strict=True))


def test_a_gelu_model_becomes_a_relu_model(tmp_path):
    gelu_bert(tmp_path / "bert")
    (tmp_path / "lines.txt").write_text("\n".join([TEXT] * 12))
    made = lazyneuron.finetune(
        tmp_path / "bert", tmp_path / "relu", data=tmp_path / "lines.txt",
        relufy=True, sparsity_penalty=0.3, steps=40, batch=4, learning_rate=3e-3,
    )  # fmt: skip
    assert made.figures["tuned"]["distance"] < made.figures["untrained"]["distance"]
    assert made.figures["tuned"]["density"] < made.figures["untrained"]["density"] < made.figures["dense"]["density"]
    assert json.loads((made.path / "config.json").read_text())["lazyneuron"] == {"finetuned": True}
    sparsity = lazyneuron.inspect(made.path)
    assert [block.activation for block in sparsity.blocks] == ["relu", "relu"]


def gelu_bert(folder):
    config = transformers.BertConfig(**(checkpoints._BERT | {"hidden_act": "gelu"}))
    checkpoints.bert(folder, "ForMaskedLM")  # its tokenizer
    return checkpoints.save(folder, transformers.BertForMaskedLM(config))


def test_embeddings_are_drawn_nearer(tmp_path):
    checkpoints.bert(tmp_path / "bert", "Model")
    (tmp_path / "lines.txt").write_text("\n".join([TEXT, "few neurons work", "all wait here while them sleep"] * 8))
    made = lazyneuron.finetune(
        tmp_path / "bert", tmp_path / "sparse", data=tmp_path / "lines.txt",
        task="sentence-embedding", top_k=4, steps=30, batch=4, learning_rate=2e-3,
    )  # fmt: skip
    assert made.task == "sentence-embedding"
    assert made.figures["dense"]["agreement"] == pytest.approx(1)
    assert made.figures["tuned"]["agreement"] > made.figures["untrained"]["agreement"]


def test_an_encoder_decoder_and_images(tmp_path):
    checkpoints.t5(tmp_path / "t5")
    (tmp_path / "pairs.jsonl").write_text("\n".join(['{"text": "few neurons work", "target": "all wait"}'] * 6))
    made = lazyneuron.finetune(tmp_path / "t5", tmp_path / "t5-k", data=tmp_path / "pairs.jsonl", top_k=5, steps=2)
    assert made.figures["dense"]["perplexity"] > 1
    checkpoints.vit(tmp_path / "vit")
    np.savez(tmp_path / "x.npz", pixel_values=np.random.default_rng(0).normal(size=(8, 3, 24, 24)))
    made = lazyneuron.finetune(tmp_path / "vit", tmp_path / "vit-k", data=tmp_path / "x.npz", top_k=5, steps=2)
    assert made.figures["dense"]["perplexity"] is None
    assert (made.examples, made.held_out) == (7, 1)


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        ({"top_k": None}, ConfigurationError, "nothing would become sparse; give --top-k K, --relufy or both"),
        ({"top_k": 72}, ConfigurationError, "top_k is 72; expected less than the 72 neurons of "),
        ({"relufy": True}, CheckpointError, "names no GELU or SiLU to be made a ReLU"),
        ({"steps": 0}, ConfigurationError, "steps is 0; expected a whole number of at least 1"),
        ({"minutes": -1.0}, ConfigurationError, "minutes is -1.0; expected a number above 0"),
        ({"lm_weight": 2}, ConfigurationError, "lm_weight is 2; expected a share from 0 to 1"),
        ({"length": 4096}, CalibrationError, "length is 4096; expected at most 64"),
        ({"data": []}, ConfigurationError, "no data to train on; give --data FILE"),
        ({"data": "nowhere.jsonl"}, CalibrationError, "nowhere.jsonl: no such file"),
        ({"learning_rate": 1e30}, ConfigurationError, "give a smaller --learning-rate than 1e\\+30"),
        ({"colour": "red"}, ConfigurationError, "unknown option 'colour'; expected one of "),
    ],
)
def test_bad_options_are_refused_and_leave_nothing(files, tmp_path, more, error, says):
    with pytest.raises(error, match=says):
        lazyneuron.finetune(files / "opt", tmp_path / "out", **options(files, **more))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[1]", "line 1: got list; expected"),
        ("{", "line 1: not JSON"),
        ('{"label": 1}', r"line 1: got keys \['label'\]; expected"),
        ('{"inputs": {"input_ids": [1]}}', "line 1: got keys .*; a language model learns from"),
        ('{"text": "a"}', "too little text: no example to"),
        ("", "it holds no examples"),
    ],
)
def test_bad_data_is_refused_with_its_place(files, tmp_path, line, says):
    (tmp_path / "bad.jsonl").write_text(line)
    with pytest.raises(CalibrationError, match=says):
        lazyneuron.finetune(files / "opt", tmp_path / "out", **options(files) | {"data": tmp_path / "bad.jsonl"})


def test_the_command_prints_before_and_after(files, tmp_path, capsys):
    command = ["finetune", str(files / "opt"), "--output", str(tmp_path / "o"), "--data", str(files / "data.jsonl")]
    main([*command, "--top-k", "6", "--steps", "2", "--batch", "2", "--validation", str(files / "more.txt")])
    out = capsys.readouterr().out
    assert "perplexity" in out
    assert [name in out for name in ("dense", "sparse, untrained", "sparse, tuned")] == [True] * 3
    assert out.endswith(f"{tmp_path / 'o'}\n")
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--top-k", "6"])
    assert stopped.value.code == 1
    assert "it is there already; choose another --output" in capsys.readouterr().err
