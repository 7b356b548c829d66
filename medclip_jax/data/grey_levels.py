"""From pixel values of any depth to 8-bit grey: which range is shown, and what lies outside it."""

import numpy as np
from jaxtyping import Shaped, UInt8

_BULK = (1, 99)  # percentiles
_EXTREME = 0.01  # of the range, at either end of it
_MOST_EXTREME = 0.25  # of the pixels
_GAP = 0.001  # of the pixels
_SAMPLE = 250_000  # pixels are enough for percentiles


def shown_range(values: Shaped[np.ndarray, "..."]) -> tuple[float, float]:
    """The values to be shown black and white: the smallest and the largest, but for strays.

    A burnt-in marker, a white border or a hot pixel at 65535 in a picture of 12 bits would leave
    a sixteenth of the grey levels to the patient. Such strays are apart from the bulk of the
    values, which lies between the percentiles 1 and 99, not counting what is within a hundredth of
    either end of the range if that is at most a quarter of the picture. Strays are farther from
    the bulk than the bulk is wide, and between them and a quarter of that width lies less than a
    thousandth of the picture: the edges of a marker, but no anatomy. So nothing is a stray in a
    picture that uses at least half of its range, or all of it if sparsely.

    NaN and infinite values do not count; without any finite value, the range is (0, 0).
    """
    values = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
    if not values.size:
        return 0.0, 0.0
    low, high = float(values.min()), float(values.max())
    sample = values[:: max(1, values.size // _SAMPLE)].astype(np.float64)
    counted = np.ones(sample.size, bool)
    margin = _EXTREME * (high - low)
    for is_extreme in (sample <= low + margin, sample >= high - margin):
        if is_extreme.mean() <= _MOST_EXTREME:
            counted &= ~is_extreme
    if not counted.any():
        return low, high
    first, last = np.percentile(sample[counted], _BULK)
    width = last - first
    if width == 0:
        return low, high
    above, below = values[values > last + width / 4], values[values < first - width / 4]
    if high > last + width and np.sum(above <= last + width) < _GAP * values.size:
        high = float(values[values <= last + width / 4].max())
    if low < first - width and np.sum(below >= first - width) < _GAP * values.size:
        low = float(values[values >= first - width / 4].min())
    return low, high


def stretch(
    values: Shaped[np.ndarray, "height width"], shown: tuple[float, float]
) -> UInt8[np.ndarray, "height width"]:
    """The values with the range `shown` stretched to 0 to 255; NaN is black.

    An image whose values are all equal is black.
    """
    low, high = shown
    exact: type[np.floating] = np.float32 if values.dtype.itemsize <= 2 else np.float64
    # Equal values have no width; the least one with a finite reciprocal leaves them black.
    width = max(high - low, 1000 * float(np.finfo(exact).tiny))
    scaled = (values.astype(exact) - low) * (255.0 / width)
    return np.round(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255)).astype(np.uint8)
