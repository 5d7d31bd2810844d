"""The examples of docs/client.md, run as they stand there against a server."""

import re
from pathlib import Path

from tests.support.artifacts import write_text_classifier, write_vector_model
from tests.support.server import serving

PAGE = Path(__file__).parents[3] / "docs" / "client.md"


def test_the_examples_run(tmp_path: Path, capsys) -> None:
    write_text_classifier(tmp_path / "models", name="reviews")
    write_vector_model(tmp_path / "models", name="vectors")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    with serving(tmp_path / "models", tmp_path / "log") as server:
        code = "\n".join(blocks).replace("127.0.0.1:8001", server.grpc)
        exec(compile(code, str(PAGE), "exec"), {"__name__": "documentation"})
    said = capsys.readouterr().out.splitlines()
    assert "(2, 3)" in said[1]
    assert "InputError" in said[-35] or any("'nothing'" in line for line in said)
    assert said[-1].startswith("no model named 'none'; the server has: reviews, vectors")
