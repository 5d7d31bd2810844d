import json
import shutil

import pytest

from lazyneuron.engine.artifact import Manifest, read_manifest, resolve_version, verify_files, versions
from lazyneuron.engine.errors import ArtifactError
from tests.support.artifacts import write_text_classifier


@pytest.fixture
def artifact(tmp_path):
    return write_text_classifier(tmp_path)


def rewrite(artifact, change):
    path = artifact / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_reads_what_was_written(artifact):
    manifest = read_manifest(artifact)
    verify_files(artifact, manifest)
    assert manifest.name == "text"
    assert manifest.batchable
    assert manifest.paddable
    assert manifest.mask_for(manifest.blocks[0].rows).name == "attention_mask"


def test_a_manifest_from_before_answers_still_reads(artifact):
    def older(document):
        for field in ("image", "problem"):
            del document[field]
        for field in ("truncate", "mask_token", "decoder_start"):
            del document["tokenizer"][field]

    before = read_manifest(artifact)
    rewrite(artifact, older)
    assert read_manifest(artifact) == before


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("image", {"input": "x", "resize": {"height": 3}}, "image.resize: .*expected height and width, shortest_edge"),
        ("image", {"input": "x", "mean": [0.5], "std": [0.5]}, "image: .*mean and std: expected both, 3 numbers each"),
        ("image", {"input": "x", "channels": "CMYK"}, "image.channels"),
        ("problem", "ranking", "problem"),
        ("tokenizer", {"max_length": 4, "truncate": "middle"}, "tokenizer.truncate"),
    ],
)
def test_what_goes_in_and_comes_out_is_checked_too(artifact, field, value, says):
    rewrite(artifact, lambda document: document.update({field: value}))
    with pytest.raises(ArtifactError, match=says):
        read_manifest(artifact)


def test_the_highest_version_stands_for_the_model(artifact):
    shutil.copytree(artifact, artifact.parent / "10")
    shutil.copytree(artifact, artifact.parent / "9")
    (artifact.parent / ".11.partial").mkdir()
    (artifact.parent / "012").mkdir()
    assert versions(artifact.parent) == [1, 9, 10]
    assert resolve_version(artifact.parent) == artifact.parent / "10"
    assert resolve_version(artifact) == artifact


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(format_version=2), "format_version is 2; this lazyneuron reads 1"),
        (lambda d: d.pop("format_version"), "format_version is None"),
        (lambda d: d["blocks"][0].update(d_ff=0), "blocks.0.d_ff"),
        (lambda d: d["blocks"][0].update(d_ff="64"), "blocks.0.d_ff"),
        (lambda d: d["blocks"][0].pop("active_output"), "active_output"),
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d.update(name="../outside"), "name"),
        (lambda d: d.update(inputs=[]), "inputs"),
        (lambda d: d.update(version=10**18), "version: Input should be less than"),  # no message could tell it
        (lambda d: d["files"].update({"../../etc/passwd": d["files"]["model.onnx"]}), "not a plain file name"),
        (lambda d: d["files"].pop("model.onnx"), "model.onnx is missing"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_by_field(artifact, change, says):
    rewrite(artifact, change)
    with pytest.raises(ArtifactError, match=r"manifest\.json") as caught:
        read_manifest(artifact)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"1" * 5000])
def test_a_manifest_that_is_no_manifest_is_refused(artifact, content):
    (artifact / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        read_manifest(artifact)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "the file was changed or cut short"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1] + b"\x00"), "the file was changed or cut short"),
        (lambda p: p.unlink(), "no such file, though the manifest lists it"),
    ],
)
def test_a_file_that_is_not_the_manifests_is_refused(artifact, damage, says):
    damage(artifact / "model.onnx")
    with pytest.raises(ArtifactError, match=says):
        verify_files(artifact, read_manifest(artifact))


@pytest.mark.parametrize(("path", "says"), [("nowhere", "no such folder"), (".", "not a model")])
def test_what_is_no_artifact_is_refused(tmp_path, path, says):
    with pytest.raises(ArtifactError, match=says):
        resolve_version(tmp_path / path)


def test_the_published_schema_is_the_one_that_is_checked(request, artifact):
    import jsonschema

    path = request.config.rootpath / "docs" / "manifest.schema.json"
    published = json.loads(path.read_text())
    current = Manifest.model_json_schema()
    assert published == current, "write it anew: python -m lazyneuron.engine.artifact > docs/manifest.schema.json"
    document = json.loads((artifact / "manifest.json").read_text())
    jsonschema.validate(document, published)
    document["blocks"][0]["d_ff"] = 0
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, published)
