"""Compile the kernels ahead of time: ``python -m lazyneuron.engine.gpu.build``.

It writes PTX for sm_80, which any later GPU's driver compiles further, and the table ``kernels.txt`` into the folder
``compiled``; with ``--cubins`` machine code for the GPUs of today as well. It needs triton and no GPU. The same sources
and the same triton give the same bytes.
"""

import argparse
import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lazyneuron.engine.gpu.configurations import CONFIGURATIONS, Configuration

FOLDER = Path(__file__).parent / "compiled"
TABLE = "kernels.txt"
PTX_TARGET = 80
# The PTX language of CUDA 12.0, which drivers from 525 on read; triton's own choice would need the newest.
PTX_VERSION = 80
CUBIN_TARGETS = (80, 86, 89, 90)
TILES = ("ROWS", "NEURONS", "DEPTH", "COLUMNS")
# Triton's names of types in the table's words.
_WORDS = {"fp32": "f32", "fp16": "f16"}


def sources_digest() -> str:
    """SHA-256 of what the compiled kernels are made of: the kernels' sources, the configurations and this file."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in (*sorted((here / "kernels").glob("*.py")), here / "configurations.py", here / "build.py"):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def compile_kernel(one: Configuration) -> Any:  # noqa: ANN401 - triton has no types
    """Compile a kernel to PTX.

    Returns
    -------
    triton.compiler.CompiledKernel
        ``asm["ptx"]`` and ``metadata`` are of interest.
    """
    # Line tables would carry this machine's paths.
    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"
    import triton
    from triton.backends.compiler import GPUTarget

    kernel = getattr(importlib.import_module(f"lazyneuron.engine.gpu.kernels.{one.module}"), one.kernel)
    if not isinstance(kernel, triton.runtime.JITFunction):
        raise SystemExit("TRITON_INTERPRET is set, expected not: interpreted kernels cannot be compiled")
    signature = one.signature()
    expected = tuple(kernel.arg_names)
    if expected != (*one.parameters, *one.constants):
        raise SystemExit(f"{one.name} is configured with {one.parameters}, expected the kernel's {expected}")
    pointers = {
        (place,): [["tt.divisibility", 16]] for place, type_ in enumerate(signature.values()) if type_[0] == "*"
    }
    source = triton.compiler.ASTSource(
        fn=kernel,
        signature=signature | dict.fromkeys(one.constants, "constexpr"),
        constexprs=dict(one.constants),
        attrs=pointers,
    )
    options = {"num_warps": one.warps, "num_stages": one.stages, "enable_fp_fusion": False, "ptx_version": PTX_VERSION}
    return triton.compile(source, target=GPUTarget("cuda", PTX_TARGET, 32), options=options)


def line(one: Configuration, compiled: Any) -> str:  # noqa: ANN401 - likewise
    """Write a kernel's line of the table."""
    parameters = compiled.asm["ptx"].split(".entry", 1)[1].split(")", 1)[0].count(".param")
    types = [
        type_[0] + _WORDS.get(type_[1:], type_[1:]) if type_[0] == "*" else _WORDS.get(type_, type_)
        for type_ in one.signature().values()
    ]
    fields = (
        one.name,
        compiled.metadata.name,
        one.warps,
        compiled.metadata.shared,
        *(one.tile(name) for name in TILES),
        parameters - len(types),
        ",".join(types),
        ",".join(one.grid),
    )
    return " ".join(str(field) for field in fields)


def main(arguments: list[str] | None = None) -> None:
    """Compile all kernels into the folder."""
    parser = argparse.ArgumentParser(prog="python -m lazyneuron.engine.gpu.build", description=__doc__)
    parser.add_argument(
        "--cubins", action="store_true", help=f"machine code for sm_{', sm_'.join(map(str, CUBIN_TARGETS))}, too"
    )
    parser.add_argument("--output", type=Path, default=FOLDER, help="the folder to write to (default: the package's)")
    chosen = parser.parse_args(arguments)
    try:
        import triton
    except ImportError:
        raise SystemExit("triton is not installed; to compile the kernels: pip install 'lazyneuron[dev]'") from None
    chosen.output.mkdir(parents=True, exist_ok=True)
    lines = [
        "lazyneuron-gpu-kernels 1",
        f"# triton {triton.__version__}, PTX {PTX_VERSION / 10} for sm_{PTX_TARGET}",
        f"# sources sha256 {sources_digest()}",
        f"# NAME ENTRY WARPS SHARED_BYTES BLOCK_{' BLOCK_'.join(TILES)} HIDDEN SIGNATURE GRID",
    ]
    for one in CONFIGURATIONS.values():
        compiled = compile_kernel(one)
        _write(chosen.output / f"{one.name}.ptx", compiled.asm["ptx"].encode())
        lines.append(line(one, compiled))
        if chosen.cubins:
            for target in CUBIN_TARGETS:
                _assemble(chosen.output / f"{one.name}.ptx", target)
        print(one.name, file=sys.stderr)  # noqa: T201 - progress of a build script
    _write(chosen.output / TABLE, ("\n".join(lines) + "\n").encode())


def _assemble(ptx: Path, target: int) -> None:
    """Make machine code of the PTX itself: compiled for another target, a kernel would want other shared memory."""
    import triton

    final = ptx.with_name(f"{ptx.stem}.sm_{target}.cubin")
    partial = final.with_name(final.name + ".partial")
    command = [triton.knobs.nvidia.ptxas.path, f"--gpu-name=sm_{target}", ptx, "-o", partial]
    subprocess.run(command, check=True)  # noqa: S603 - a fixed command of our own files
    partial.replace(final)


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


if __name__ == "__main__":
    main()
