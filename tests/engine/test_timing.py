from itertools import count

from lazyneuron.engine.timing import Timing, ratio, time_in_turns


def test_all_are_run_in_turns():
    ticks = count()
    calls = []
    times = time_in_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        seconds=0,
        least=3,
        clock=lambda: float(next(ticks)),
    )
    assert "".join(calls) == "ab" * 4  # one of them the warm-up
    assert times == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_it_goes_on_until_the_time_is_up():
    ticks = count()
    # The clock is read twice in a turn, and a third time once there are enough of them.
    assert len(time_in_turns({"a": lambda: None}, seconds=30, least=2, clock=lambda: float(next(ticks)))["a"]) == 11


def test_ratios_are_of_the_same_turn():
    faster = ratio([2.0, 4.0, 6.0], [1.0, 1.0, 1.0])
    assert faster == Timing(3.0, 4.0, 5.0, 3)
    assert faster.spread == 0.5
