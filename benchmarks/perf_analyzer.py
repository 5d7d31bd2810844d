"""Fetch Triton's perf_analyzer, unchanged, and run it: `python benchmarks/perf_analyzer.py ARGUMENTS`.

    python benchmarks/perf_analyzer.py -m vector -u 127.0.0.1:8001 -i grpc --shape x:16 -p 2000

Its wheel wants a newer C library than many systems have, and a plain `pip install perf-analyzer` there takes an empty
stub of another version without a word. So the wheel is asked for by its platform, and Debian 13's C and C++ libraries
are unpacked beside it, in build/perf-analyzer; nothing is installed.
"""

import hashlib
import lzma
import os
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

WHEEL = "perf-analyzer==2.60.0"
PLATFORM = "manylinux_2_38_x86_64"
MIRROR = "https://deb.debian.org/debian"
INDEX = "dists/trixie/main/binary-amd64/Packages.xz"
PACKAGES = ("libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libssl3t64", "libzstd1")
FOLDER = Path(__file__).resolve().parents[1] / "build" / "perf-analyzer"
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib64", "lib/x86_64-linux-gnu")


def fetch() -> None:
    """Download and unpack what is not there yet.

    Raises
    ------
    SystemExit
        If something cannot be had, or is not what Debian's index says.
    """
    ready = FOLDER / "ready"
    if ready.is_file() and ready.read_text() == WHEEL:
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--platform", PLATFORM, "--dest", FOLDER]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, WHEEL], check=True)
    for wheel in FOLDER.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(FOLDER)
    (FOLDER / "perf_analyzer" / "bin" / "perf_analyzer").chmod(0o755)
    for package, (path, digest) in _index().items():
        data = _get(path)
        if hashlib.sha256(data).hexdigest() != digest:
            raise SystemExit(f"{MIRROR}/{path}: its digest is not the one in Debian's index; try again")
        archive_file = FOLDER / f"{package}.deb"
        archive_file.write_bytes(data)
        subprocess.run(["dpkg-deb", "--extract", archive_file, FOLDER / "debian"], check=True)
    ready.write_text(WHEEL)


def command() -> list[str]:
    """Return what starts perf_analyzer: Debian 13's loader, with its libraries before the system's own."""
    root = FOLDER / "debian"
    found = [str(root / part) for part in LIBRARIES if (root / part).is_dir()]
    loader = next(path for part in LIBRARIES if (path := root / part / "ld-linux-x86-64.so.2").exists())
    return [str(loader), "--library-path", os.pathsep.join(found), str(FOLDER / "perf_analyzer/bin/perf_analyzer")]


def _index() -> dict[str, tuple[str, str]]:
    """Return each package's path on the mirror and its digest."""
    found: dict[str, tuple[str, str]] = {}
    for stanza in lzma.decompress(_get(INDEX)).decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Package") in PACKAGES:
            found[fields["Package"]] = (fields["Filename"], fields["SHA256"])
    if missing := set(PACKAGES) - set(found):
        raise SystemExit(f"{MIRROR}/{INDEX}: no {', '.join(sorted(missing))} in it")
    return found


def _get(path: str) -> bytes:
    with urllib.request.urlopen(f"{MIRROR}/{path}", timeout=60) as response:
        data: bytes = response.read()
    return data


if __name__ == "__main__":
    fetch()
    os.execv((run := [*command(), *sys.argv[1:]])[0], run)  # its exit status is ours
