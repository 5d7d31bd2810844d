"""Reading JSON documents that carry a format version and follow a schema."""

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from lazyneuron.engine.errors import LazyneuronError

__all__ = ["read_document"]

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

    Raises
    ------
    LazyneuronError
        `error`, if the file is missing, is not JSON, does not fit the schema or has another format version.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise error(f"{path}: no such file; {missing}") from None
    except (OSError, ValueError) as reason:
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
