"""What the live page looks like under traffic: docs' pictures of it, from a real server in Debian's Chromium.

    python -m benchmarks.page_pictures models --data data.jsonl --output docs

Every text of the data is sent to every model that takes text, and made examples to the others, for `--seconds`; then
one text is tried in the page, and three pictures are taken: light, dark and on a phone.
"""

import argparse
import io
import itertools
import json
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page

from lazyneuron.engine.artifact import read_manifest, resolve_version
from lazyneuron.engine.documents import written_beside
from tests.support.browser import chromium
from tests.support.rest import ask
from tests.support.server import ServerProcess, serving

LOOKS: Mapping[str, dict[str, Any]] = {
    "page": {"viewport": {"width": 1000, "height": 1340}, "color_scheme": "light"},
    "page-dark": {"viewport": {"width": 1000, "height": 1080}, "color_scheme": "dark"},
    "page-phone": {"viewport": {"width": 360, "height": 1080}, "color_scheme": "light"},
}
COLOURS = 64  # of a picture's palette


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--data", type=Path, required=True, help='JSON Lines with a "text" in each')
    parser.add_argument("--text", default="The page table holds the physical address of every page", help="to be tried")
    parser.add_argument("--seconds", type=float, default=330)
    parser.add_argument("--output", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    texts = [json.loads(line)["text"] for line in arguments.data.read_text().splitlines()]
    with tempfile.TemporaryDirectory() as folder, serving(arguments.repository, Path(folder) / "log") as server:
        with traffic(server, arguments.repository, texts):
            time.sleep(arguments.seconds)
            with chromium() as browser:
                for name, look in LOOKS.items():
                    page = browser.new_page(**look)
                    show(page, server, arguments.text, answer=name == "page-dark")
                    save(page, arguments.output / f"{name}.png")
        server.terminate()


@contextmanager
def traffic(server: ServerProcess, repository: Path, texts: list[str]) -> Iterator[None]:
    """Send requests to all models, a few at a time, until the end."""
    done = threading.Event()
    models = [read_manifest(resolve_version(path)) for path in sorted(repository.iterdir()) if path.is_dir()]

    def send() -> None:
        for text in itertools.cycle(texts):
            for manifest in models:
                if done.wait(0.05):
                    return
                if manifest.tokenizer is not None:
                    ask(server.http, "POST", f"/v1/models/{manifest.name}:predict", {"text": text[:400]})
                else:
                    path = f"/page/models/{manifest.name}/versions/{manifest.version}"
                    ask(server.http, "POST", path, {"example": True})

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def show(page: Page, server: ServerProcess, text: str, *, answer: bool) -> None:
    """Open the page and wait until it lives; with `answer`, try a text and go to what came of it."""
    page.goto(f"http://{server.http}/")
    page.wait_for_function("document.getElementById('connection').textContent.startsWith('Live')")
    if answer:
        taking = page.locator("#try-model option[data-takes='text']").first
        page.select_option("#try-model", taking.get_attribute("value"))
        page.fill("#try-text", text)
        page.click("#try-send")
        page.wait_for_selector(".tokens")
        page.locator("#try-section").evaluate("section => section.scrollIntoView({block: 'start'})")
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)  # the bars move for a moment


def save(page: Page, file: Path) -> None:
    """Write what is to be seen now, in few colours."""
    shown = Image.open(io.BytesIO(page.screenshot()))
    with written_beside(file) as beside:
        shown.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(beside, "PNG", optimize=True)


if __name__ == "__main__":
    main()
