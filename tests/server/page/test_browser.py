"""The page in a real headless Chromium: it lives, answers, and can be used by keyboard, on a phone, in the dark."""

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright", reason="`pip install -e '.[dev]'` brings Playwright, which drives Chromium")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from lazyneuron.server.auth import line_for
from tests.server.page.test_page import EVIL
from tests.support.artifacts import write_image_classifier, write_text_classifier, write_vector_model
from tests.support.browser import chromium
from tests.support.rest import ask
from tests.support.server import ServerProcess, serving

WAIT = 60_000  # milliseconds, on a busy machine
expect.set_options(timeout=WAIT)
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "models"
    target = write_text_classifier(folder, name="text-" + "long" * 25)
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["labels"] = [f"{EVIL} {i}" for i in range(3)]
    manifest["blocks"][1]["name"] = f"/encoder/layer.11/intermediate/{EVIL}"
    (target / "manifest.json").write_text(json.dumps(manifest))
    write_vector_model(folder)
    write_image_classifier(folder)
    broken = write_vector_model(folder, name="broken")
    with (broken / "model.onnx").open("ab") as file:
        file.write(b"\0")
    return folder


@pytest.fixture(scope="module")
def served(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(models, tmp_path_factory.mktemp("page") / "log") as server:
        yield server
        assert "Traceback" not in server.log.read_text()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complained about: errors of the script, and what the content security policy kept out."""
    return []


@pytest.fixture
def page(browser: Browser, complaints: list[str], request: pytest.FixtureRequest) -> Iterator[Page]:
    options = getattr(request, "param", {})
    context = browser.new_context(**options)
    context.set_default_timeout(WAIT)
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def note(message: ConsoleMessage) -> None:
        known = ("Failed to load resource", "Cross-Origin-Opener-Policy header has been ignored")
        if message.type == "error" and not any(words in message.text for words in known):
            complaints.append(message.text)

    page.on("console", note)
    yield page
    context.close()
    assert complaints == []


def live(page: Page, server: ServerProcess) -> Page:
    page.goto(f"http://{server.http}/")
    expect(page.locator("#connection")).to_have_text("Live: the numbers renew themselves.")
    return page


def choose(page: Page, label: str) -> None:
    option = page.locator("#try-model option").filter(has_text=re.compile(label)).first
    page.select_option("#try-model", option.get_attribute("value"))


def send_text(server: ServerProcess) -> None:
    name = "text-" + "long" * 25
    assert ask(server.http, "POST", f"/v1/models/{name}:predict", {"text": "lazy neurons sleep"}).status == 200


def test_the_headline_follows_the_traffic(page: Page, served: ServerProcess) -> None:
    live(page, served)
    before = int(page.locator("[data-value='requests']").inner_text().replace(",", ""))
    send_text(served)
    expect(page.locator("[data-value='requests']")).to_have_text(str(before + 1))
    expect(page.locator(".lead")).to_have_text(re.compile(r"\d+\.\d.% of the MLP’s FLOPs were saved"))
    assert page.evaluate("document.querySelector('.blocks .now[width]:not([width=\"0\"])') !== null")


def test_trying_a_text_shows_each_token(page: Page, served: ServerProcess) -> None:
    live(page, served)
    choose(page, "^text")
    page.fill("#try-text", f"lazy {EVIL} neurons")
    page.click("#try-send")
    expect(page.locator("#try-answer")).to_have_text("Answered; the result is below.")
    words = page.locator(".tokens .word").all_inner_texts()
    assert (words[0], words[-1]) == ("lazy", "neurons")
    assert all(re.fullmatch(r"\d+\.\d.%", used) for used in page.locator(".tokens .used").all_inner_texts())
    expect(page.locator(".candidates tbody th").first).to_contain_text(EVIL)
    assert page.evaluate("window.pwned === undefined")
    assert page.locator("img").count() == 0
    page.fill("#try-text", "")
    page.click("#try-send")
    expect(page.locator("#try-error")).to_contain_text("text: got 0 tokens")
    expect(page.locator("#try-result")).to_be_empty()


def test_trying_tensors_and_an_image(page: Page, served: ServerProcess) -> None:
    live(page, served)
    choose(page, "^vector")
    expect(page.locator("#try-text")).to_be_hidden()
    page.click("#try-send")
    expect(page.locator("#try-result h3").first).to_have_text("What vector, version 1, says")
    page.fill("#try-json", "{")
    page.click("#try-send")
    expect(page.locator("#try-error")).to_contain_text("That is not JSON")
    page.fill("#try-json", json.dumps({"x": [1.0] * 15}))
    page.click("#try-send")
    expect(page.locator("#try-error")).to_contain_text("x: got shape [1, 15]")
    choose(page, "^image")
    page.click("#try-send")
    expect(page.locator("#try-error")).to_have_text("Choose an image file first.")
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(2).integers(0, 255, (20, 30, 3), np.uint8)).save(file, "PNG")
    page.set_input_files("#try-image", {"name": "a.png", "mimeType": "image/png", "buffer": file.getvalue()})
    page.click("#try-send")
    expect(page.locator(".candidates tbody th").first).to_contain_text("class")
    expect(page.locator("#try-error")).to_be_empty()


def test_by_keyboard_alone(page: Page, served: ServerProcess) -> None:
    live(page, served)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"{seen[-1]} has the focus and does not show it"
        if seen[-1] == "try-model":
            break
    assert seen[-1] == "try-model", seen
    assert "SUMMARY" in seen
    while page.evaluate("document.getElementById('try-model').selectedOptions[0].dataset.takes") != "text":
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    expect(page.locator("#try-text")).to_be_focused()
    page.keyboard.type("few neurons work")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.locator("#try-send")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".tokens .word")).to_have_text(["few", "neurons", "work"])
    expect(page.locator("#try-send")).to_be_focused()


@pytest.mark.parametrize("page", [{"viewport": PHONE, "has_touch": True}], indirect=True)
def test_on_a_phone_nothing_is_beside_the_screen(page: Page, served: ServerProcess) -> None:
    send_text(served)
    live(page, served)
    choose(page, "^text")
    page.fill("#try-text", "lazy neurons sleep while few work and save time and energy " * 3)
    page.click("#try-send")
    expect(page.locator(".tokens .word").first).to_have_text("lazy")
    page.locator("#try-result summary").click()
    beside = page.evaluate(
        """width => [...document.querySelectorAll("body *")]
          .filter((e) => !e.closest(".scroll, svg, .unseen, .skip, select"))
          .filter((e) => e.getBoundingClientRect().right > width + 0.5)
          .map((e) => e.outerHTML)""",
        PHONE["width"],
    )
    assert beside == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


LOOKS = {
    "light": {"color_scheme": "light"},
    "dark phone": {"viewport": PHONE, "color_scheme": "dark"},
}


@pytest.mark.parametrize("page", LOOKS.values(), ids=LOOKS, indirect=True)
def test_axe_finds_nothing(page: Page, served: ServerProcess) -> None:
    """Contrast, names, roles, landmarks, order of headings: all of axe-core's rules, best practices included."""
    send_text(served)
    live(page, served)
    choose(page, "^text")
    page.fill("#try-text", "lazy neurons")
    page.click("#try-send")
    expect(page.locator("#try-answer")).to_have_text("Answered; the result is below.")
    page.locator("#try-result summary").click()
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    red, green, blue = (int(part) for part in re.findall(
        r"\d+", page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))[:3])  # fmt: skip
    assert (red + green + blue < 200) is dark
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


@pytest.mark.parametrize("page", [{"reduced_motion": "reduce"}, {"reduced_motion": "no-preference"}], indirect=True)
def test_motion_is_for_those_who_want_it(page: Page, served: ServerProcess) -> None:
    live(page, served)
    reduced = page.evaluate("matchMedia('(prefers-reduced-motion: reduce)').matches")
    moves = page.evaluate("getComputedStyle(document.querySelector('.blocks .now')).transitionDuration")
    assert (moves == "0s") is reduced


@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True)
def test_without_script_the_numbers_are_there(page: Page, served: ServerProcess) -> None:
    send_text(served)
    page.goto(f"http://{served.http}/")
    expect(page.locator(".lead")).to_contain_text("of the MLP’s FLOPs were saved")
    expect(page.locator("#connection")).to_contain_text("reload it for newer numbers")
    expect(page.locator("#try-form")).to_be_hidden()
    expect(page.locator("#try-section .no-script")).to_contain_text("lazyneuron predict")


def test_the_page_comes_back_with_the_server(page: Page, models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    with serving(folder, tmp_path / "log") as server:
        port = int(server.http.rpartition(":")[2])
        live(page, server)
        choose(page, "^text")
        page.fill("#try-text", "lazy")
        page.locator(".panel details summary").first.click()
        closed = page.locator(".panel details").first.get_attribute("id")
        assert server.terminate() == 0
        expect(page.locator("#connection")).to_have_text("The server cannot be reached. Trying again …")
    page.click("#try-send")
    expect(page.locator("#try-error")).to_have_text("The server cannot be reached.")
    write_vector_model(folder, name="zebra")
    with serving(folder, tmp_path / "log2", http_port=port):
        expect(page.locator("#connection")).to_have_text("Live: the numbers renew themselves.")
        expect(page.locator(".models")).to_contain_text("zebra")  # drawn anew
        assert page.locator(f"#{closed}").get_attribute("open") is None  # what was closed stays closed
        assert page.input_value("#try-text") == "lazy"
        page.click("#try-send")
        expect(page.locator(".tokens .word")).to_have_text(["lazy"])


TOKEN = "client-token-0123456789"


def test_signing_in_with_a_token(page: Page, models: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{line_for('alice', 'client', TOKEN)}\n")
    tokens.chmod(0o600)
    settings = f'[auth]\ntokens_file = "{tokens}"\n[tls]\nreload_seconds = 0.1\n'
    with serving(models, tmp_path / "log", settings) as server:
        page.goto(f"http://{server.http}/")
        expect(page.locator("#token")).to_be_focused()
        assert Axe().run(page).violations_count == 0
        page.keyboard.type("another-token-0123456789")
        page.keyboard.press("Enter")
        expect(page.locator("#sign-in-error")).to_have_text(
            "That token is not one that this server knows.", timeout=WAIT
        )
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#connection")).to_have_text("Live: the numbers renew themselves.")
        choose(page, "^text")
        page.fill("#try-text", "lazy")
        page.click("#try-send")
        expect(page.locator(".tokens .word")).to_have_text(["lazy"])
        kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])")
        assert TOKEN not in kept
        assert TOKEN not in page.content()
        page.reload()
        expect(page.locator("#token")).to_be_visible()


@pytest.mark.parametrize("page", [{}], indirect=True)
def test_no_token_is_sent_in_clear_to_another_machine(page: Page, models: Path, tmp_path: Path) -> None:
    """By another name than the loopback's the browser does not hold the connection for a safe one."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{line_for('alice', 'client', TOKEN)}\n")
    tokens.chmod(0o600)
    settings = f'[auth]\ntokens_file = "{tokens}"\n[http]\nallowed_hosts = ["models.example"]\n'
    with serving(models, tmp_path / "log", settings) as server:
        sent: list[str] = []

        def forward(route, request) -> None:
            headers = request.all_headers()
            sent.append(headers.get("authorization", ""))
            path = request.url.removeprefix("http://models.example")
            answer = ask(server.http, request.method, path, Host="models.example", Accept=headers.get("accept", ""))
            route.fulfill(status=answer.status, headers=answer.headers, body=answer.body)

        page.route("http://models.example/**", forward)
        page.goto("http://models.example/")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#sign-in-error")).to_contain_text("This page came without TLS")
        assert set(sent) == {""}
