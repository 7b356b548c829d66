"""Masks as run lengths, the way SIIM-ACR Pneumothorax gives them."""

import numpy as np
from jaxtyping import Bool

from medclip_jax.errors import UserError


def decode_run_lengths(runs: str, height: int, width: int) -> Bool[np.ndarray, "{height} {width}"]:
    """The mask in a text of pairs "gap length gap length …".

    Each gap counts from the end of the run before it. Pixels are counted down the columns, from
    the left one to the right one.

    Raises:
        UserError: the text is not pairs of whole numbers from 0, or runs past the last pixel.
    """
    words = runs.split()
    if len(words) % 2 or not all(word.isdecimal() for word in words):
        raise UserError("run lengths that are not pairs of whole numbers")
    # Of nine digits at most, so that no number and no sum overflows.
    is_long = any(len(word) > 9 for word in words)
    ends = np.cumsum([0 if is_long else int(word) for word in words], dtype=np.int64)
    if is_long or (ends.size and ends[-1] > height * width):
        raise UserError(f"run lengths that leave the image of {width} x {height} pixels")
    mask = np.zeros(height * width, bool)
    for start, end in zip(ends[::2], ends[1::2], strict=True):
        mask[start:end] = True
    return mask.reshape(width, height).T
