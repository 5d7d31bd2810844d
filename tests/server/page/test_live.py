"""One sampler for all who watch: bounds, slow readers, and the end."""

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest

from lazyneuron.server.metrics import Metrics
from lazyneuron.server.page import live as live_module
from lazyneuron.server.page.live import Live, TooManyWatchersError

SECONDS = 30


async def document(stream: AsyncGenerator[bytes, None]) -> dict[str, object]:
    """The next event that says something."""
    while True:
        event = await asyncio.wait_for(anext(stream), SECONDS)
        if event.startswith(b"data: "):
            assert event.endswith(b"\n\n")
            return json.loads(event[6:])


def live(most: int = 2) -> tuple[Metrics, Live]:
    metrics = Metrics()
    return metrics, Live(metrics, lambda: None, most)


def test_more_watchers_than_may_are_refused_until_one_goes() -> None:
    async def run() -> None:
        _, page = live(2)
        first, second = page.watch(), page.watch()
        assert await anext(first) == await anext(second) == b"retry: 1000\n\n"
        with pytest.raises(TooManyWatchersError):
            await anext(page.watch())
        await first.aclose()
        assert await anext(page.watch()) == b"retry: 1000\n\n"

    asyncio.run(run())


def test_a_slow_reader_holds_nobody_up_and_gets_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_WATCHED", 0.0)
    monkeypatch.setattr(live_module, "_WHOEVER_ASKS", 0)

    async def run() -> None:
        metrics, page = live()
        slow, quick = page.watch(), page.watch()
        for stream in (slow, quick):
            await anext(stream)
            assert (await document(stream))["structure"] == page.view.structure
        for number in range(1, 6):
            metrics.answered("", "", "NOT_FOUND", 0.1)
            await page.refresh()
            event = await document(quick)
            assert event["values"]["requests"] == str(number)  # type: ignore[index]
            assert "structure" not in event  # what changed alone
        event = await document(slow)
        assert event["structure"] == page.view.structure  # it missed some: all of it
        assert event["values"] == dict(page.view.values)
        assert event["values"]["requests"] == "5"  # type: ignore[index]

    asyncio.run(run())


def test_the_sampler_reads_by_itself_for_all_watchers() -> None:
    async def run() -> None:
        metrics, page = live()
        task = asyncio.create_task(page.run())
        streams = [page.watch(), page.watch()]
        for stream in streams:
            await anext(stream)
            await document(stream)
        metrics.answered("", "", "NOT_FOUND", 0.1)
        for stream in streams:
            while "requests" not in (event := await document(stream))["values"]:  # type: ignore[operator]
                pass
            assert event["values"]["requests"] == "1"  # type: ignore[index]
        page.close()
        for stream in streams:
            assert [event async for event in stream if b'"requests"' in event] == []
        await asyncio.wait_for(task, SECONDS)

    asyncio.run(run())


def test_a_reading_that_fails_is_told_and_the_next_is_made(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        metrics, page = live()
        failed = asyncio.Event()

        class Broken:
            def collect(self) -> list[object]:
                loop.call_soon_threadsafe(failed.set)
                raise ValueError("no metrics today")

            describe = list

        loop = asyncio.get_running_loop()
        broken = Broken()
        metrics.registry.register(broken)  # type: ignore[arg-type]
        stream = page.watch()
        await anext(stream)
        await asyncio.sleep(live_module._WATCHED / 2)
        task = asyncio.create_task(page.run())
        await asyncio.wait_for(failed.wait(), SECONDS)
        metrics.registry.unregister(broken)  # type: ignore[arg-type]
        metrics.answered("", "", "NOT_FOUND", 0.1)
        while (await document(stream))["values"].get("requests") != "1":  # type: ignore[attr-defined]
            pass
        page.close()
        await asyncio.wait_for(task, SECONDS)

    asyncio.run(run())
    assert "the page's numbers cannot be read" in caplog.text


def test_who_does_not_read_the_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_PATIENCE", 0.05)

    async def run() -> None:
        _, page = live()
        cut = {name: asyncio.Event() for name in ("stuck", "reads")}
        stuck, reads = page.watch(cut["stuck"].set), page.watch(cut["reads"].set)
        for stream in (stuck, reads):
            await anext(stream)
        page.close()
        assert [event async for event in reads] == []
        await asyncio.wait_for(cut["stuck"].wait(), SECONDS)
        assert not cut["reads"].is_set()

    asyncio.run(run())


def test_a_stream_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """So whoever watches is asked for a token that is still good."""
    monkeypatch.setattr(live_module, "_LONGEST", 0.1)
    monkeypatch.setattr(live_module, "_BEAT", 0.02)

    async def run() -> None:
        _, page = live()
        events = [event async for event in page.watch()]
        assert b": still here\n\n" in events

    asyncio.run(run())
