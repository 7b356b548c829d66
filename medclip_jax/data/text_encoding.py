"""How a text is encoded: in UTF-8, or as older programs save it."""

import codecs
import re
from collections.abc import Iterable

# Half a character, which JSON can hold and no encoding of text can.
SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_IN_CP1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")


def text_encoding(chunks: Iterable[bytes]) -> str:
    """The encoding of a text: UTF-8 with or without a byte order mark, or Windows-1252.

    Windows-1252 is Latin-1 with quotes and dashes in place of control characters; Latin-1 is left
    for what has such characters.
    """
    decoder: codecs.IncrementalDecoder = codecs.getincrementaldecoder("utf-8")()
    is_utf8, other = True, "cp1252"
    for chunk in chunks:
        if _NOT_IN_CP1252.search(chunk):
            other = "latin-1"
        is_utf8 = is_utf8 and _decodes(decoder, chunk)
    return "utf-8-sig" if is_utf8 and _decodes(decoder, b"", final=True) else other


def decode_text(encoded: bytes) -> str:
    """The text, by `text_encoding`."""
    return encoded.decode(text_encoding([encoded]))


def _decodes(decoder: codecs.IncrementalDecoder, chunk: bytes, final: bool = False) -> bool:
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError:
        return False
    return True
