"""Names for blocks, taken from where the model's author put them; they play no part in finding blocks."""

import ast
from collections.abc import Iterable
from itertools import takewhile

import onnx_ir as ir

__all__ = ["WRAPPED", "name_of", "unique"]

_SCOPES = "pkg.torch.onnx.name_scopes"
WRAPPED = "lazyneuron_wrapped"
"""The attribute by which our own wrapper modules hold the user's; no part of a name."""

_OURS = {WRAPPED, "lazyneuron"}
"""Parts of our own in weights' names."""


def name_of(nodes: Iterable[ir.Node], weights: Iterable[str]) -> str:
    """Return the innermost scope that all nodes share, or else what their weights' or their own names begin with."""
    nodes = list(nodes)
    candidates = (
        [_scope(node) for node in nodes],
        [[part for part in weight.split(".")[:-1] if part not in _OURS] for weight in weights],
        [(node.name or "").strip("/").split("/")[:-1] for node in nodes],
    )
    for paths in candidates:
        shared = _shared([p for p in paths if p]) if any(paths) else []
        if shared:
            return ".".join(shared)
    return "mlp"


def unique(name: str, taken: set[str]) -> str:
    """Return the name, numbered if it is taken already, and take it."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}.{number}"
    taken.add(candidate)
    return candidate


def _shared(paths: list[list[str]]) -> list[str]:
    """Return the parts with which all paths begin."""
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return [parts[0] for parts in same]


def _scope(node: ir.Node) -> list[str]:
    """Return the path of the module in which a node was made: torch writes a list of nested paths."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return []
    return [part for part in str(scopes[-2]).split(".") if part != WRAPPED] if len(scopes) > 1 else []
