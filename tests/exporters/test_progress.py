import io

from lazyneuron.exporters.progress import progress_on


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_elsewhere():
    stream = io.StringIO()
    with progress_on(stream) as progress:
        progress.step("reading x")
        progress.step("calibrating", 3)
        progress.advance(2)
    assert stream.getvalue() == "reading x\ncalibrating (3)\n"


def test_a_bar_on_a_terminal():
    stream = Terminal()
    with progress_on(stream) as progress:
        progress.step("calibrating", 3)
        progress.advance(3)
        progress.step("writing")
    assert "writing" in stream.getvalue()
    assert "0/3" not in stream.getvalue().rpartition("writing")[2]
