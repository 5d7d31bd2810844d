"""The page over HTTP, without a browser: what it says, who gets it, and that it ends with the server."""

import base64
import http.client
import io
import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lazyneuron.engine.model import Model
from lazyneuron.server.auth import line_for
from tests.support.artifacts import write_image_classifier, write_sequence_encoder, write_text_classifier
from tests.support.rest import HttpAnswer, ask
from tests.support.server import ServerProcess, serving, until

VOID = {"meta", "link", "input", "br", "hr", "img"}
EVIL = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'


class Page(HTMLParser):
    """A page whose elements are closed in their order; its values, and the elements that are there."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.links: dict[str, str] = {}
        self.text = ""
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs)))
        if key := dict(attrs).get("data-value"):
            self.values.setdefault(key, "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        opened, _ = self._open.pop()
        assert opened == tag, f"<{opened}> is closed by </{tag}>"

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"
        tag, attributes = self._open[-1] if self._open else ("", {})
        if key := attributes.get("data-value"):
            self.values[key] = data
        if tag == "a":
            self.links[data] = attributes["href"] or ""

    def plain(self) -> str:
        return " ".join(self.text.replace("\N{NO-BREAK SPACE}", " ").replace("’", "'").split())


def page(server: ServerProcess, **headers: str) -> Page:
    answer = ask(server.http, "GET", "/", **headers)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Page(answer.body.decode())


def attempt(server: ServerProcess, path: str, body: object, **headers: str) -> HttpAnswer:
    return ask(server.http, "POST", f"/page/models/{path}", body, **headers)


def tried(server: ServerProcess, path: str, body: object, **headers: str) -> Page:
    answer = attempt(server, path, body, **headers)
    assert answer.status == 200, answer.body
    return Page(answer.body.decode())


@contextmanager
def events(server: ServerProcess, **headers: str) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(server.http, timeout=30)
    try:
        connection.request("GET", "/page/events", headers=headers)
        yield connection.getresponse()
    finally:
        connection.close()


def next_event(response: http.client.HTTPResponse) -> dict[str, dict[str, str]]:
    while True:
        line = response.readline()
        assert line, "the stream ended"
        if line.startswith(b"data: "):
            return json.loads(line[6:])


def test_the_page_says_what_was_saved(server: ServerProcess, repository: Path) -> None:
    model = Model.load(repository / "text")
    ask(server.http, "POST", "/v1/models/text:predict", {"text": "lazy neurons sleep"})
    until(lambda: "%" in page(server).values["share"], "a share is told")
    there = page(server)
    assert there.values["headline"].startswith("of the MLP’s FLOPs were saved")
    assert "Models" in there.text
    assert "requests are taken" in there.text
    key = there.links["text"].removeprefix("#")
    for index, block in enumerate(model.manifest.blocks):
        exported = there.values[f"{key}.b{index}.exported"].replace("\N{NO-BREAK SPACE}", "")
        assert float(exported.rstrip("%")) == pytest.approx(100 * block.density.mean)
        assert f"{key}.b{index}.now" in there.values
    assert "the file was changed or cut short" in there.text


def test_the_page_is_whole_without_script_and_has_no_inline_code(server: ServerProcess) -> None:
    there = page(server)
    tags = [tag for tag, _ in there.elements]
    assert {"main", "header", "nav", "footer", "h1"} <= set(tags)
    assert tags.count("h1") == 1
    for tag, attributes in there.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        if tag == "script":
            assert attributes["src"].startswith("/page/")  # type: ignore[union-attr]
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("/", "#", "data:image/svg+xml,")), value
    ids = [a["id"] for _, a in there.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for path, kind in (("/page/page.css", "text/css"), ("/page/page.js", "text/javascript")):
        answer = ask(server.http, "GET", path)
        assert answer.status == 200
        assert answer.headers["content-type"].startswith(kind)
        assert "http://" not in answer.body.decode()
        assert "https://" not in answer.body.decode()


def test_the_stream_follows_what_runs(server: ServerProcess) -> None:
    with events(server) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-store"
        first = next_event(stream)
        before = int(first["values"]["requests"].replace(",", ""))
        assert set(first) == {"structure", "values", "bars"}
        assert set(first["values"]) == set(page(server).values)
        ask(server.http, "POST", "/v1/models/text:predict", {"text": "lazy neurons"})
        while "requests" not in (event := next_event(stream))["values"]:
            pass
        assert int(event["values"]["requests"].replace(",", "")) > before


def test_a_text_is_answered_with_what_each_token_used(server: ServerProcess, repository: Path) -> None:
    text = "lazy neurons <b>sleep</b>"
    before = server.total("lazyneuron_requests_total", model="text", code="OK")
    answer = tried(server, "text/versions/1", {"instances": [text]})
    assert server.total("lazyneuron_requests_total", model="text", code="OK") == before + 1
    expected = Model.load(repository / "text").predict(text, row_counts=True)
    words = [text[slice(*token.span)] for token in expected.rows[0].tokens if token.span is not None]
    used = sum(rows.active[0] for rows in expected.rows) / sum(rows.d_ff for rows in expected.rows)
    told = " ".join(f"{word} {100 * share:.1f} %" for word, share in zip(words, used, strict=True))
    assert told in answer.plain()
    best = expected.answer.candidates[0]  # type: ignore[union-attr]
    assert f"{best.label} {100 * best.score:.1f} %" in answer.plain()
    saved = 1 - expected.sparsity.flops_executed / expected.sparsity.flops_dense
    assert f"Share of the MLP's FLOPs saved {100 * saved:.1f} %" in answer.plain()
    for counts in expected.sparsity.blocks:
        assert f"{counts.name} {100 * counts.density:.1f} % 10.0 %" in answer.plain()


def test_tensors_or_a_made_example(server: ServerProcess) -> None:
    made = tried(server, "sequence/versions/1", {"example": True, "budget": 0.5})
    assert "y, 1 × 8 × 16" in made.plain()
    assert "Each row: the share of neurons" in made.plain()
    assert "Budget 50.0 % of the exported k" in made.plain()
    own = tried(server, "vector/versions/1", {"instances": [{"x": [0.5] * 16}]})
    assert "logits, 1 × 3" in own.plain() or "class" in own.plain()


def test_a_long_request_is_told_in_part(server: ServerProcess) -> None:
    answer = tried(server, "sequence/versions/1", {"instances": [{"x": np.ones((300, 16)).tolist()}]})
    assert "And 172 more rows." in answer.plain()


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("nothing/versions/1", {"example": True}, 404, "no model named 'nothing'"),
        ("text/versions/7", {"example": True}, 404, "text has no version 7"),
        ("text/versions/x", {"example": True}, 400, "model_version: got 'x'"),
        ("broken/versions/1", {"example": True}, 404, "no model named 'broken'"),
        ("text/versions/1", {"instances": ["a", "b"]}, 400, "instances: got 2; expected 1 to 1"),
        ("text/versions/1", {"instances": [""]}, 400, "text: got 0 tokens"),
        ("text/versions/1", {"example": True, "budget": 0}, 400, "budget: got 0.0"),
        ("text/versions/1", {"example": True, "budget": "x"}, 400, "budget: got 'x'"),
        ("text/versions/1", b"{", 400, "not JSON"),
        ("text/versions/1", b"[]", 400, "expected"),
        ("vector/versions/1", {"instances": ["words"]}, 400, "text: got text; expected tensors named"),
    ],
)
def test_refused(server: ServerProcess, path: str, body: object, status: int, words: str) -> None:
    answer = attempt(server, path, body)
    assert answer.status == status
    assert words in answer.error


def test_another_site_s_page_cannot_try(server: ServerProcess) -> None:
    assert attempt(server, "text/versions/1", {"example": True}, Origin="https://evil.example").status == 403
    assert attempt(server, "text/versions/1", {"example": True}, Sec_Fetch_Site="cross-site").status == 403


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Names that are no names, and an image model; two may watch."""
    folder = tmp_path_factory.mktemp("odd")
    target = write_text_classifier(folder / "models", name="evil")
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["labels"] = [EVIL + str(i) for i in range(3)]
    manifest["blocks"][0]["name"] = EVIL
    (target / "manifest.json").write_text(json.dumps(manifest))
    write_image_classifier(folder / "models")
    with serving(folder / "models", folder / "log", "[page]\nmax_watchers = 2\n[http]\nwrite_seconds = 60\n") as server:
        yield server
        assert "Traceback" not in server.log.read_text()


def test_names_are_text_and_nothing_else(odd: ServerProcess) -> None:
    answer = tried(odd, "evil/versions/1", {"instances": [f"lazy {EVIL} neurons"]})
    for there in (page(odd), answer):
        assert EVIL in there.text
        assert "img" not in [tag for tag, _ in there.elements]
    assert "script" not in [tag for tag, _ in answer.elements]
    with events(odd) as stream:
        next_event(stream)


def test_an_image(odd: ServerProcess) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(2).integers(0, 255, (20, 30, 3), np.uint8)).save(file, "PNG")
    encoded = base64.b64encode(file.getvalue()).decode()
    answer = tried(odd, "image/versions/1", {"instances": [{"image": {"b64": encoded}}]})
    assert re.search(r"class \d \d+\.\d %", answer.plain())


def test_watchers_are_bounded(odd: ServerProcess) -> None:
    with events(odd) as first, events(odd) as second:
        for stream in (first, second):
            next_event(stream)
        with events(odd) as third:
            assert third.status == 503
            assert third.headers["retry-after"] == "10"
            assert b"page.max_watchers" in third.read()

    def again() -> bool:
        with events(odd) as stream:
            return stream.status == 200

    until(again, "those that went left room")


def test_streams_do_not_hold_up_the_end(repository: Path, tmp_path: Path) -> None:
    settings = "grace_seconds = 900\n[http]\nwrite_seconds = 900\n"
    with serving(repository, tmp_path / "log", settings) as server, events(server) as read, events(server) as unread:
        next_event(read)
        assert unread.status == 200
        server.process.send_signal(signal.SIGTERM)
        rest = read.read()
        assert server.process.wait(200) == 0, "the grace time, or the time to read, was waited for"
        assert rest == b"" or (b"\n" + rest).endswith(b"\n\n"), "it ends with a whole event"
        assert "Traceback" not in server.log.read_text()


def test_the_page_can_be_turned_off(repository: Path, tmp_path: Path) -> None:
    settings = "[page]\nenabled = false\n"
    with serving(repository, tmp_path / "log", settings) as server:
        for path in ("/", "/page/events", "/page/page.js"):
            assert ask(server.http, "GET", path).status == 404
    with serving(repository, tmp_path / "log2", "[rest]\nenabled = false\n") as server:
        assert "try-form" not in [a.get("id") for _, a in page(server).elements]
        assert attempt(server, "text/versions/1", {"example": True}).status == 404


TOKEN, ADMIN = "client-token-0123456789", "admin-token-0123456789"


def test_without_a_token_nothing_is_told(repository: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{line_for('alice', 'client', TOKEN)}\n{line_for('ops', 'admin', ADMIN)}\n")
    tokens.chmod(0o600)
    settings = f'[auth]\ntokens_file = "{tokens}"\n[log]\naccess = "all"\n'
    with serving(repository, tmp_path / "log", settings) as server:
        asked = ask(server.http, "GET", "/", Accept="text/html,*/*")
        assert asked.status == 401
        assert asked.headers["www-authenticate"].startswith("Bearer")
        there = Page(asked.body.decode())
        assert "sign-in" in [a.get("id") for _, a in there.elements]
        assert not [name for name in ("text", "vector", "sequence", "broken") if re.search(rf"\b{name}\b", there.text)]
        assert ask(server.http, "GET", "/").json["error"].startswith("no token")  # a program gets no page
        for path in ("/page/events", "/page/models/text/versions/1"):
            method = "GET" if "events" in path else "POST"
            assert ask(server.http, method, path, {} if method == "POST" else None, Accept="text/html").status == 401
        assert (
            ask(server.http, "GET", "/page/page.js").status == ask(server.http, "GET", "/page/page.css").status == 200
        )
        for token, sees_why in ((TOKEN, False), (ADMIN, True)):
            bearer = {"authorization": f"Bearer {token}"}
            seen = page(server, **bearer)
            assert "broken" in seen.text
            assert ("the file was changed or cut short" in seen.text) == sees_why
            assert not [a for tag, a in seen.elements if tag == "a" and a["href"] == "/metrics"]  # it needs a token too
            with events(server, **bearer) as stream:
                assert "the file was changed" not in json.dumps(next_event(stream))
            tried(server, "text/versions/1", {"instances": ["lazy"]}, **bearer)
        until(lambda: "client=alice" in server.log.read_text(), "the log says who tried")
        assert TOKEN not in server.log.read_text()


def test_the_page_is_there_while_models_load(slow_repository: Path, tmp_path: Path) -> None:
    """Through the application itself: a process that says `ready` has loaded them."""
    from starlette.testclient import TestClient

    from lazyneuron.server.config import ServerConfig
    from lazyneuron.server.http import http_app
    from lazyneuron.server.metrics import Metrics
    from lazyneuron.server.page.live import Live

    metrics = Metrics()
    app = http_app(ServerConfig(), metrics, lambda: None, lambda: None, Live(metrics, lambda: None, 1))
    answer = TestClient(app).get("/")
    assert "models are being loaded" in Page(answer.text).text
    assert TestClient(app).post("/page/models/slow/versions/1", json={"example": True}).status_code == 503


def test_a_model_that_comes_changes_what_is_drawn(tmp_path: Path) -> None:
    write_sequence_encoder(tmp_path / "models")
    with serving(tmp_path / "models", tmp_path / "log") as server, events(server) as stream:
        before = next_event(stream)["structure"]
        write_text_classifier(tmp_path / "staging")
        (tmp_path / "staging" / "text").rename(tmp_path / "models" / "text")
        while "structure" not in (event := next_event(stream)) or event["structure"] == before:
            pass
        until(lambda: "text" in page(server).text, "the page has it")
