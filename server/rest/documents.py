"""Protobuf messages as Triton's HTTP endpoints write them: field names as they are, 64-bit numbers as numbers."""

from typing import Any

from google.protobuf.message import Message

__all__ = ["document_of"]


def document_of(message: Message) -> dict[str, Any]:
    """Return a message as a JSON object.

    Fields that are not set have their defaults, so that a reader need not know them; those that can be absent
    (messages, and the members of a oneof) are left out. `json_format` would write 64-bit numbers as strings.
    """
    document: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            kind = field.message_type.fields_by_name["value"]
            document[field.name] = {str(key): _plain(kind, value[key]) for key in sorted(value)}
        elif field.is_repeated:
            document[field.name] = [_plain(field, item) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            document[field.name] = _plain(field, value)
    return document


def _plain(field: Any, value: Any) -> Any:  # noqa: ANN401  protobuf's implementations have descriptors of their own
    if field.message_type is not None:
        return document_of(value)
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return value if named is None else named.name
    return value
