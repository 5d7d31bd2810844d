"""What a request was made from, where that was no tensor: a text or an image. It is needed to read the answer."""

from dataclasses import dataclass
from pathlib import Path

from lazyneuron.engine.errors import InputError

__all__ = ["Origin", "Picture", "Span", "Text", "Token", "image_content"]

Span = tuple[int, int]
"""The characters of the text from the first, included, to the second, not included."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token.

    Attributes
    ----------
    id
        Its place in the vocabulary.
    piece
        The word piece as the vocabulary has it.
    span
        The characters that it stands for; None where the text is not known.
    added
        Whether the tokenizer added it, as it does `[CLS]`; False where the text is not known.
    """

    id: int
    piece: str
    span: Span | None = None
    added: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """A text as its tokens; what was cut off is not among them."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """An image before it was resized.

    Attributes
    ----------
    height, width
        In pixels.
    """

    height: int
    width: int


Origin = Text | Picture


def image_content(image: bytes | Path) -> bytes:
    """Return an image file's bytes.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    if isinstance(image, bytes):
        return image
    try:
        return image.read_bytes()
    except OSError as error:
        raise InputError("image", got=f"{image} ({error.strerror})", expected="an image file") from None
    except ValueError as error:  # a zero byte, or half a surrogate pair
        raise InputError("image", got=f"{str(image)!r:.80} ({error})", expected="an image file") from None
