"""The images of a split as 8-bit squares, each decoded once if all fit in memory."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int, UInt8

from medclip_jax.data.images import decode_gray, fit_square
from medclip_jax.evaluate.encode import Studies, StudyTable

_MAX_BYTES = 8 * 2**30  # of the squares that are kept


class ImageSquares:
    """The images of a table's studies, padded to squares of `size` pixels a side."""

    def __init__(self, studies: Studies, table: StudyTable, size: int, max_bytes: int = _MAX_BYTES):
        self._studies, self._table, self._size = studies, table, size
        self._threads = ThreadPoolExecutor()
        self._decoded = np.zeros(len(table.image_study), bool)
        fits = self._decoded.size * size**2 <= max_bytes
        self._kept = np.empty((self._decoded.size, size, size), np.uint8) if fits else None

    def read(self, images: Int[np.ndarray, "batch"]) -> UInt8[np.ndarray, "batch size size"]:
        """The images at these positions of the table, in this order."""
        if self._kept is None:
            return self._decode(images)
        new = np.unique(images[~self._decoded[images]])
        if new.size:
            self._kept[new] = self._decode(new)
            self._decoded[new] = True
        return self._kept[images]

    def _decode(self, images: Int[np.ndarray, "batch"]) -> UInt8[np.ndarray, "batch size size"]:
        rows = self._table.rows[self._table.image_study[images]]
        numbers = self._table.image_number[images]
        studies = self._studies.read(rows.tolist())
        encoded = [study.images[number] for study, number in zip(studies, numbers, strict=True)]
        # OpenCV lets other threads run while it decodes.
        return np.stack(list(self._threads.map(self._square, encoded)))

    def _square(self, encoded: bytes) -> UInt8[np.ndarray, "size size"]:
        return fit_square(decode_gray(encoded), self._size)
