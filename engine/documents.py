"""Reading JSON documents that carry a format version and follow a schema, and writing files whole."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from lazyneuron.engine.errors import LazyneuronError

__all__ = ["read_document", "write_text", "written_beside"]

_Model = TypeVar("_Model", bound=BaseModel)


def read_document(
    path: Path,
    model: type[_Model],
    version: int,
    error: type[LazyneuronError],
    *,
    what: str,
    missing: str,
    unreadable: str = "",
    hint: str = "",
    strict: bool = False,
    content: bytes | None = None,
) -> _Model:
    """Read a document and check it, its version first.

    Parameters
    ----------
    model
        The schema.
    version
        The format version that this lazyneuron reads.
    error
        What is raised.
    what
        What the document is called where the whole of it is wrong.
    missing
        What to do where there is no such file.
    unreadable, hint
        What follows the message where it is not JSON, and where it does not fit.
    strict
        Whether a value of another type is refused, not converted.
    content
        What stands in the file, where it has been read already.

    Raises
    ------
    LazyneuronError
        `error`, if the file is missing, is not JSON, does not fit the schema or has another format version.
    """
    try:
        document = json.loads(path.read_bytes() if content is None else content)
    except FileNotFoundError:
        raise error(f"{path}: no such file; {missing}") from None
    except (OSError, ValueError, RecursionError) as reason:
        raise error(f"{path}: not readable as JSON ({reason}){unreadable}") from reason
    found = document.get("format_version") if isinstance(document, dict) else None
    if found != version:
        raise error(f"{path}: format_version is {found!r}; this lazyneuron reads {version}{hint}")
    try:
        if strict:
            return model.model_validate_json(json.dumps(document), strict=True)
        return model.model_validate(document)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or what
        raise error(f"{path}: {where}: {first['msg']} (got {first['input']!r:.80}){hint}") from None


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place and move it there; folders that lack are made.

    Raises
    ------
    OSError
        If it cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as beside:
        beside.write_text(text, encoding="utf-8")


@contextmanager
def written_beside(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Give an empty file to write; it is moved to its place once it is on the disk, or removed if that fails.

    Parameters
    ----------
    mode
        Who may read the file in its place; until then its owner alone may.

    Raises
    ------
    OSError
        If it cannot be made, written out or moved.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    beside = Path(name)
    try:
        yield beside
        os.fsync(descriptor)
        beside.chmod(mode)
        beside.replace(path)
    except BaseException:  # Ctrl-C too
        beside.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
