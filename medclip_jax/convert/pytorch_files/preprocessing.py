"""Radiographs as the arrays that the model was trained on; needs NumPy and Pillow only.

preprocessing = Preprocessing.from_file("preprocessor_config.json")
pixel_values = preprocessing(["a.jpg", "b.png"])  # float32 [2, channels, crop_size, crop_size]
"""

import dataclasses
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
from PIL.TiffImagePlugin import TiffImageFile

ImageSource = str | os.PathLike | bytes | np.ndarray | PIL.Image.Image

# The parts of red, green and blue in luminance, in 1/32768, and what is added before the cut.
# libpng, by which the model's PNG files were read, has its own, and rounds down.
_LUMINANCE = (9798, 19235, 3735, 1 << 14)
_PNG_LUMINANCE = (9797, 19234, 3737, 0)

_MIN_RANGE = 3  # grey levels from darkest to brightest; with fewer there is nothing to see
_DEEP = re.compile(r"(?<!BGR);16")  # "BGR;16" has 16 bits for all three channels
_SAMPLE_FORMAT, _SIGNED = 339, 2  # a tag of TIFF files, and a value
_PHOTOMETRIC_INTERPRETATION = 262  # TIFF's tag: 0 says that the smallest value is white


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Decodes, pads to a square, resizes and normalises images.

    The values of grey images, and of RGB images with 8 bits a channel, are within one grey level,
    1 / (255 std), of those that the model was trained on. DICOM files are not read: convert them
    first, or use medclip_jax.

    Attributes:
        image_size: pixels a side of the black square on which an image is centred.
        crop_size: pixels a side of what the model sees, the whole square made smaller.
        mean: of the pixels divided by 255, as is `std`.
        std: what the pixels less the mean are divided by.
        channels: how often the grey image is repeated.
    """

    image_size: int
    crop_size: int
    mean: float
    std: float
    channels: int = 1

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "Preprocessing":
        """From a `preprocessor_config.json`."""
        config = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(**{field.name: config[field.name] for field in dataclasses.fields(cls)})

    def __call__(self, images: ImageSource | Sequence[ImageSource]) -> np.ndarray:
        """The images as float32 `[N, channels, crop_size, crop_size]`.

        Args:
            images: one or a list of what `decode_gray` takes.

        Raises:
            ValueError: an image cannot be read, or is one shade of grey.
        """
        if isinstance(images, ImageSource):
            images = [images]
        shape = (len(images), self.channels, self.crop_size, self.crop_size)
        pixel_values = np.empty(shape, np.float32)
        shrink = triangle_weights(self.image_size, self.crop_size)
        for row, image in zip(pixel_values, images, strict=True):
            gray = decode_gray(image)
            if int(gray.max()) - int(gray.min()) < _MIN_RANGE:
                name = image if isinstance(image, str | os.PathLike) else "image"
                raise ValueError(f"{name}: all pixels are equal or nearly so")
            square = fit_square(gray, self.image_size)
            row[:] = (shrink @ square @ shrink.T / 255.0 - self.mean) / self.std
        return pixel_values


def decode_gray(source: ImageSource) -> np.ndarray:
    """The image as 8-bit grey, uint8 `[height, width]`.

    Colour becomes luminance, and the EXIF orientation is applied. More than 8 bits are stretched
    from the image's own smallest and largest value, but for strays (`_shown_range`), to 0 and 255.
    16-bit colour, of which Pillow keeps 8 bits, is not read.

    Args:
        source: a path, the encoded bytes of an image file, a PIL image, or a uint8 array
            `[height, width]`, `[height, width, 1]` or `[height, width, 3]` (RGB).

    Raises:
        ValueError: the file is missing or is not a readable image, or the array is not uint8.
    """
    if isinstance(source, np.ndarray):
        return _gray_array(source)
    if isinstance(source, PIL.Image.Image):
        try:
            return _gray_image(source)
        except Exception as error:  # Pillow raises whatever it meets in a damaged file
            raise ValueError(_unreadable("image", error)) from error
    if isinstance(source, bytes):
        return _decode_bytes(source, "encoded image")
    if not isinstance(source, str | os.PathLike):
        raise ValueError(
            "an image must be a path, the bytes of a file, a PIL image or a NumPy array, "
            f"not {type(source).__name__}"
        )
    try:
        encoded = Path(source).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no file can have this name
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{source}: cannot be read ({reason})") from error
    return _decode_bytes(encoded, os.fspath(source))


def fit_square(image: np.ndarray, size: int) -> np.ndarray:
    """The image scaled so that its longer side is `size`, centred on a black square canvas."""
    scale = size / max(image.shape)
    height, width = (max(1, round(side * scale)) for side in image.shape)
    if (height, width) != image.shape:
        image = (_average if scale < 0.5 else _interpolate)(image, height, width)
    canvas = np.zeros((size, size), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = image
    return canvas


def triangle_weights(old_size: int, new_size: int) -> np.ndarray:
    """The matrix `[new_size, old_size]` that resizes a line of pixels, wide enough not to alias."""
    centres = _centres(old_size, new_size)
    distances = np.abs(centres[:, None] - np.arange(old_size)) / max(1.0, old_size / new_size)
    weights = np.maximum(0.0, 1.0 - distances)
    return weights / weights.sum(axis=1, keepdims=True)


def _centres(old_size: int, new_size: int) -> np.ndarray:
    """Where the centres of the new pixels lie among the old ones, the first of which lies at 0."""
    return (np.arange(new_size) + 0.5) * (old_size / new_size) - 0.5


def _interpolate(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image with each pixel between the four that are nearest to it.

    The weights are multiples of 1/2048 and the products are cut, as OpenCV does: the result is an
    eighth of a grey level darker than with exact numbers.
    """
    above, below, down = _neighbours(image.shape[0], height)
    left, right, across = _neighbours(image.shape[1], width)
    wide = image.astype(np.int32)
    wide = (wide[:, left] * (2048 - across) + wide[:, right] * across) >> 4
    down = down[:, None]
    upper, lower = wide[above] * (2048 - down), wide[below] * down
    return ((upper >> 16) + (lower >> 16) + 2) >> 2


def _neighbours(old_size: int, new_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each new pixel of a line, the old ones before and after it; the latter's weight."""
    places = np.clip(_centres(old_size, new_size), 0, old_size - 1)
    before = np.floor(places).astype(np.int32)
    weights = np.rint((places - before) * 2048).astype(np.int32)
    return before, np.minimum(before + 1, old_size - 1), weights


def _average(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image with each pixel the average over the area that it covers."""
    return np.rint(_average_rows(_average_rows(image, height).T, width).T)


def _average_rows(image: np.ndarray, size: int) -> np.ndarray:
    edges = np.arange(size + 1) * len(image) / size
    whole = np.floor(edges).astype(int)
    # sums[n] is the sum of n rows; the row of zeros at the end ends the sum of all, and a bit.
    sums = np.cumsum(np.pad(image, [(1, 1), (0, 0)]), axis=0, dtype=np.float64)
    up_to = sums[whole] + (edges - whole)[:, None] * (sums[whole + 1] - sums[whole])
    return np.diff(up_to, axis=0) * (size / len(image))


def _decode_bytes(encoded: bytes, name: str) -> np.ndarray:
    if encoded[128:132] == b"DICM":
        raise ValueError(f"{name}: DICOM is not read here: convert it to PNG, or use medclip_jax")
    try:
        with PIL.Image.open(io.BytesIO(encoded)) as image:
            # Keeps libjpeg from making colours: a JPEG stores the luminance as it is.
            image.draft("L", image.size)
            return _gray_image(image, _PNG_LUMINANCE if image.format == "PNG" else _LUMINANCE)
    except PIL.UnidentifiedImageError as error:
        raise ValueError(
            f"{name}: not a readable image (empty, or of an unknown format)"
        ) from error
    except Exception as error:
        raise ValueError(_unreadable(name, error)) from error


def _unreadable(name: str, error: Exception) -> str:
    return f"{name}: not a readable image ({' '.join(str(error).split())})"


def _gray_array(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8:
        raise ValueError(f"an image array must be uint8 from 0 to 255, not {image.dtype}")
    if image.size and image.ndim == 2:
        return image
    if image.size and image.ndim == 3 and image.shape[2] == 1:
        return image[:, :, 0]
    if image.size and image.ndim == 3 and image.shape[2] == 3:
        return _luminance(image, _LUMINANCE)
    raise ValueError(
        "an image array must be [height, width], [height, width, 1] or [height, width, 3], "
        f"not {list(image.shape)}"
    )


def _gray_image(image: PIL.Image.Image, weights: Sequence[int] = _LUMINANCE) -> np.ndarray:
    tags = getattr(image, "tag_v2", {})  # of a TIFF file, before anything is done to it
    image = _load_turned(image)
    if image.mode in ("L", "LA", "1"):
        return np.array(image.convert("L"))
    if image.mode[0] not in "IF":
        return _luminance(np.asarray(image.convert("RGB")), weights)
    deep = np.asarray(image).astype(np.float64)
    low, high = _shown_range(deep)
    scaled = np.nan_to_num((deep - low) * (255.0 / max(high - low, 1e-300)), nan=0.0)
    gray = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    # Pillow heeds the tag in images of 8 bits alone.
    return 255 - gray if tags.get(_PHOTOMETRIC_INTERPRETATION) == 0 else gray


def _load_turned(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image with its pixels read and the EXIF orientation applied."""
    if not all(image.size):
        raise ValueError(f"no pixels: {image.width} x {image.height}")
    is_deep = any(
        _DEEP.search(str(args)) or (codec.startswith("ppm") and args[1] > 255)
        for codec, _, _, args in getattr(image, "tile", ())  # how the file is to be decoded
    )
    is_signed = _SIGNED in getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, ())
    if image.mode[0] not in "IF" and (is_deep or is_signed):
        kind = "signed 8-bit values" if is_signed else "16-bit colour"
        raise ValueError(f"Pillow does not keep {kind}: convert the file to 16-bit grey")
    if isinstance(image, TiffImageFile):
        # A file that has a name is mapped into memory, in rows of the wrong length where the
        # orientation exchanges height and width.
        filename, image.filename = image.filename, ""
        try:
            image.load()
        finally:
            image.filename = filename
    return PIL.ImageOps.exif_transpose(image)


def _shown_range(values: np.ndarray) -> tuple[float, float]:
    """The values to be shown black and white: the smallest and the largest, but for strays.

    Strays, such as a burnt-in marker, are farther from the bulk of the values than the bulk is
    wide, and less than a thousandth of the picture lies between them and a quarter of that width.
    The bulk lies between the percentiles 1 and 99, not counting what is within a hundredth of
    either end of the range if that is at most a quarter of the picture.
    """
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 0.0
    low, high = values.min(), values.max()
    sample = values[:: max(1, values.size // 250_000)]
    counted = np.ones(sample.size, bool)
    margin = 0.01 * (high - low)
    for is_extreme in (sample <= low + margin, sample >= high - margin):
        if is_extreme.mean() <= 0.25:
            counted &= ~is_extreme
    if not counted.any():
        return low, high
    first, last = np.percentile(sample[counted], (1, 99))
    width = last - first
    above, below = values[values > last + width / 4], values[values < first - width / 4]
    if width and high > last + width and np.sum(above <= last + width) < 0.001 * values.size:
        high = values[values <= last + width / 4].max()
    if width and low < first - width and np.sum(below >= first - width) < 0.001 * values.size:
        low = values[values >= first - width / 4].min()
    return low, high


def _luminance(image: np.ndarray, weights: Sequence[int]) -> np.ndarray:
    return ((image @ np.array(weights[:3]) + weights[3]) >> 15).astype(np.uint8)
