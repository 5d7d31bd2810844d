import signal
import subprocess
import sys

import pytest

from lazyneuron.exporters import writing
from lazyneuron.exporters.writing import staged

KILLED = """
import os, signal, sys
from pathlib import Path
from lazyneuron.exporters.writing import staged
with staged(Path(sys.argv[1]), int(sys.argv[2])) as folder:
    (folder / "model.onnx").write_bytes(b"half")
    (folder / "scratch").mkdir()
    print(folder, flush=True)
    if sys.argv[3] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def start(output, version, how):
    command = [sys.executable, "-c", KILLED, str(output), str(version), how]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(output, version):
    with staged(output, version) as folder:
        (folder / "model.onnx").write_bytes(b"whole")


def test_what_a_killed_export_left_is_taken_away_by_the_next(tmp_path):
    output = tmp_path / "m"
    with start(output, 1, "killed") as killed:
        assert killed.wait() == -signal.SIGKILL
    assert [name.startswith(".1.tmp-") for name in names(output)] == [True]
    write(output, 2)
    assert names(output) == ["2"]


def test_what_a_living_export_fills_stays(tmp_path):
    output = tmp_path / "m"
    with start(output, 1, "waits") as living:
        folder = living.stdout.readline().strip()
        write(output, 2)
        assert len(names(output)) == 2
        living.stdin.close()
        assert living.wait() == 0
    assert folder.startswith(str(output))
    assert names(output) == ["1", "2"]
    assert names(output / "1") == ["model.onnx", "scratch"]


def test_two_exports_in_one_process_leave_each_other_alone(tmp_path):
    with staged(tmp_path, 1) as first:
        (first / "a").touch()
        write(tmp_path, 2)
        assert (first / "a").exists()
    assert names(tmp_path) == ["1", "2"]


@pytest.mark.parametrize(
    "name", [".1.tmp", ".x.tmp-abcdefgh", ".1.tmp-abcdefgh.txt", "1.tmp-abcdefgh", ".1.tmp-ABCDEFGH"]
)
def test_what_is_no_exports_stays(tmp_path, name):
    (tmp_path / name).mkdir()
    write(tmp_path, 1)
    assert names(tmp_path) == sorted([name, "1"])


def test_a_link_or_a_file_of_that_name_stays(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    output = tmp_path / "m"
    output.mkdir()
    (output / ".1.tmp-abcdefgh").symlink_to(elsewhere)
    (output / ".2.tmp-abcdefgh").touch()
    write(output, 1)
    assert names(output) == [".1.tmp-abcdefgh", ".2.tmp-abcdefgh", "1"]
    assert names(elsewhere) == ["precious"]


def test_without_locks_nothing_is_taken_away(tmp_path, monkeypatch):
    (tmp_path / ".1.tmp-abcdefgh").mkdir()

    def refused(*_):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(writing.fcntl, "flock", refused)
    write(tmp_path, 1)
    assert names(tmp_path) == [".1.tmp-abcdefgh", "1"]
