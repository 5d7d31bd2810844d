"""What the page says of the numbers, and that it says it honestly."""

import pytest

from lazyneuron.server.page.view import View, draw
from lazyneuron.server.page.window import Window
from lazyneuron.server.page.words import count, duration, nice_top, operations, per_second, seconds, share, visible
from lazyneuron.server.repository import Entry
from tests.server.page.test_readings import Registry
from tests.support.artifacts import manifest_of

MODEL = ("model", "1")
MANIFEST = manifest_of(inputs=({"name": "x", "dtype": "float32", "shape": ("batch", 16)},), outputs=(
    {"name": "y", "dtype": "float32", "shape": ("batch", 16)},), task="none")  # fmt: skip


def drawn(window: Window, *entries: Entry, troubles: tuple[str, ...] = ()) -> View:
    loaded = {MODEL: MANIFEST}
    return draw("ready", entries or [Entry("model", "1", "READY")], loaded, window, troubles)


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("’", "'")


def said(view: View) -> str:
    return plain(" ".join(f"{view.values['share']} {view.values['headline']}".split()))


def test_five_minutes_are_told_with_what_ran_in_them() -> None:
    there = Registry()
    window = Window(there.read(0.0))
    there.dense.labels(*MODEL).inc(1e12)
    there.executed.labels(*MODEL).inc(1e12)  # nothing saved, long ago
    window.add(there.read(100.0))
    for time in range(110, 700, 10):
        there.dense.labels(*MODEL).inc(1e9)
        there.executed.labels(*MODEL).inc(0.25e9)
        there.dense_seconds.labels(*MODEL, "block_0").inc(0.2)
        there.executed_seconds.labels(*MODEL, "block_0").inc(0.1)
        window.add(there.read(float(time)))
    view = drawn(window)
    assert said(view) == "75.0 % of the MLP's FLOPs were saved in the last five minutes."
    assert plain(view.values["detail"]) == (
        "7.5 GFLOPs were done where dense MLP blocks take 30 GFLOPs; "
        "about 3.0 s of the engine's time saved, by estimate."
    )
    assert plain(view.values["so_far"]).startswith("Since the server started, 11 min 30 s ago: 4.2 % saved (44 GFLOPs)")
    assert plain(view.values["m0.saved"]) == "75.0 %"
    assert plain(view.values["m0.time"]) == "3.0 s"


def test_a_young_server_says_since_when() -> None:
    there = Registry()
    window = Window(there.read(0.0))
    there.dense.labels(*MODEL).inc(100)
    there.executed.labels(*MODEL).inc(40)
    window.add(there.read(80.0))
    assert said(drawn(window)) == "60.0 % of the MLP's FLOPs were saved since the server started, 1 min 20 s ago."
    assert "not estimated" in drawn(window).values["detail"]


def test_no_traffic_is_no_share() -> None:
    there = Registry()
    there.dense.labels(*MODEL).inc(100)
    window = Window(there.read(0.0))
    for time in range(10, 400, 10):
        window.add(there.read(float(time)))
    view = drawn(window)
    assert said(view) == "No request has run in the last five minutes, so there is no share of saved FLOPs to tell."
    assert view.values["m0.saved"] == view.values["m0.time"] == "no requests"
    assert view.values["m0.b0.now"] == "–"
    assert view.values["p99"] == "–"


def test_a_loss_is_called_one() -> None:
    there = Registry()
    window = Window(there.read(0.0))
    there.dense.labels(*MODEL).inc(100)
    there.executed.labels(*MODEL).inc(130)
    there.dense_seconds.labels(*MODEL, "block_0").inc(1)
    there.executed_seconds.labels(*MODEL, "block_0").inc(1.5)
    window.add(there.read(10.0))
    view = drawn(window)
    assert said(view).startswith("30.0 % more FLOPs than dense MLP blocks need were spent")
    assert "more of the engine's time spent" in plain(view.values["detail"])
    assert plain(view.values["m0.time"]) == "−500 ms"


def test_densities_are_on_one_scale() -> None:
    there = Registry()
    window = Window(there.read(0.0))
    there.neurons.labels(*MODEL, "block_0").inc(1000)
    there.active.labels(*MODEL, "block_0").inc(150)
    window.add(there.read(10.0))
    view = drawn(window)
    assert (plain(view.values["m0.b0.now"]), plain(view.values["m0.b0.exported"])) == ("15.0 %", "10.0 %")
    assert plain(view.values["m0.top"]) == "20 %"
    assert (view.bars["m0.b0.now"], view.bars["m0.b0.exported"]) == (75.0, 50.0)


def test_requests_and_refusals() -> None:
    there = Registry()
    window = Window(there.read(0.0))
    window.add(there.read(100.0))
    there.requests.labels(*MODEL, "OK").inc(50)
    there.refused.labels(*MODEL, "queue_full").inc(3)
    there.refused.labels("", "", "too_large").inc(1)
    there.seconds.labels(*MODEL).observe(0.05)
    there.queue.labels(*MODEL).set(4)
    window.add(there.read(110.0))
    values = drawn(window).values
    assert values["rate"] == values["m0.rate"] == "5.0"
    assert values["refused"] == "4 (queue full 3, too large 1)"
    assert values["m0.refused"] == "3 (queue full 3)"
    assert plain(values["p50"]) == "50 ms"
    assert values["queue"] == values["m0.queue"] == "4"


def test_the_structure_changes_with_what_is_drawn_alone() -> None:
    there = Registry()
    window = Window(there.read(0.0))
    before = drawn(window).structure
    there.dense.labels(*MODEL).inc(100)
    window.add(there.read(10.0))
    assert drawn(window).structure == before
    assert drawn(window, Entry("model", "1", "UNLOADING")).structure != before
    assert drawn(window, troubles=("a newer copy is refused",)).structure != before


def test_a_folder_full_of_old_versions_does_not_fill_the_page() -> None:
    entries = [Entry("model", str(number), "UNAVAILABLE", "old") for number in range(2, 100)]
    view = drawn(Window(Registry().read(0.0)), *entries, Entry("model", "1", "READY"))
    assert (len(view.models), view.hidden) == (21, 78)
    assert view.models[-1].manifest is MANIFEST


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (share(0.0312), "3.1 %"), (share(0.00042), "0.042 %"), (share(0), "0.0 %"), (share(-0.3), "−30.0 %"),
        (share(1), "100.0 %"), (share(1e-9), "0.0000 %"),
        (operations(0), "0 FLOPs"), (operations(999), "999 FLOPs"), (operations(999.9), "1.0 kFLOPs"),
        (operations(1.234e12), "1.2 TFLOPs"), (operations(1e30), "1,000,000,000,000 EFLOPs"),
        (seconds(0), "0 s"), (seconds(0.0042), "4.2 ms"), (seconds(75), "75 s"), (seconds(150), "2 min 30 s"),
        (duration(59.6), "1 min 0 s"), (duration(3 * 3600 + 125), "3 h 2 min"), (duration(2 * 86400), "2 d 0 h"),
        (per_second(9.94), "9.9"), (per_second(9.96), "10"), (per_second(1234.4), "1,234"),
        (count(1234567.0), "1,234,567"), (visible("a b"), "a b"), (visible("\n"), "'\\n'"), (visible(""), "''"),
    ],
)  # fmt: skip
def test_numbers_in_words(words: str, expected: str) -> None:
    assert plain(words) == expected


@pytest.mark.parametrize(("value", "top"), [(0, 0.01), (0.01, 0.01), (0.011, 0.02), (0.3, 0.5), (0.51, 1.0), (1, 1.0)])
def test_where_bars_end(value: float, top: float) -> None:
    assert nice_top(value) == top
