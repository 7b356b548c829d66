"""What every image encoder returns, so that one can stand in for another."""

from typing import NamedTuple

from jaxtyping import Array, Float


class ImageEncoding(NamedTuple):
    """An image encoder's output.

    Attributes:
        features: one pooled vector an image.
        grid: one vector a patch or spatial cell, rows from the top, columns from the left.
    """

    features: Float[Array, "batch channels"]
    grid: Float[Array, "batch rows columns channels"]
