"""Whether a PNG file is whole: where it is not, libpng prints to stderr by itself."""

import zlib

_MAGIC = b"\x89PNG\r\n\x1a\n"


def is_damaged_png(encoded: bytes) -> bool:
    """Whether a PNG file is cut short, or a part of it that its pixels need has changed.

    A file is a row of chunks: the length of the data (4 bytes, big-endian), the kind (4), the data,
    and the checksum of kind and data (4). Of another format nothing is known.
    """
    if not encoded.startswith(_MAGIC):
        return False
    view, start, kind = memoryview(encoded), len(_MAGIC), b""
    while kind != b"IEND":
        end = start + 8 + int.from_bytes(view[start : start + 4], "big")
        if end + 4 > len(encoded):
            return True
        kind = encoded[start + 4 : start + 8]
        is_needed = kind[:1].isupper()
        if is_needed and zlib.crc32(view[start + 4 : end]) != int.from_bytes(
            view[end : end + 4], "big"
        ):
            return True
        start = end + 4
    return False
