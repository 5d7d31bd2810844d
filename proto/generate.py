"""Write the generated code for every .proto below this folder: `python proto/generate.py [DESTINATION]`.

The destination is the repository's root unless given; files land in its `lazyneuron/protocol/`.

Generated code refuses to run under a protobuf or grpcio older than its compiler, so the compiler is the oldest
that pyproject.toml's lower bounds allow, in an environment of its own: it does not install beside a newer protobuf.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
ENVIRONMENT = SOURCES.parent / "build" / "protoc"
TOOLS = ("grpcio-tools==1.76.0", "mypy-protobuf==5.1.0")


def compiler() -> Path:
    """Return the Python of the compiler's environment, made if it is not there."""
    python = ENVIRONMENT / "bin" / "python"
    ready = ENVIRONMENT / "ready"
    if not ready.is_file():
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *TOOLS], check=True)  # noqa: S603
        ready.write_text("\n".join(TOOLS))
    return python


def generate(destination: Path) -> None:
    """Run protoc over the sources.

    Raises
    ------
    subprocess.CalledProcessError
        If the compiler cannot be installed, or refuses a source; its own words are on standard error.
    """
    python = compiler()
    options = [f"--{kind}={destination}" for kind in ("python_out", "grpc_python_out", "mypy_out", "mypy_grpc_out")]
    sources = sorted(str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.proto"))
    # protoc starts the typing plug-ins by name, and they lie beside that Python.
    environment = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [python, "-m", "grpc_tools.protoc", f"--proto_path={SOURCES}", *options, *sources]
    subprocess.run(command, check=True, env=environment)  # noqa: S603  our own compiler on our own sources


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCES.parent)
