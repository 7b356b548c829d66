"""Augmentation on the accelerator: a batch of 8-bit images in, normalized views out, inside jit.

The list, its order and its parameters are ConVIRT's (arXiv 2010.00747): crop, horizontal flip,
affine transform, brightness and contrast, Gaussian blur. All geometry, the resizing included, is
one bilinear sampling, so that the pixels are interpolated once.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from medclip_jax.errors import UserError

# Images with more pixels a side than this many times the view are first shrunk with a filter.
MAX_SHRINK = 1.5
# The size of the paper's images, in whose pixels the width of the blur is given.
BLUR_REFERENCE_SIZE = 224


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What to draw at random for each image; the ranges are uniform, and ConVIRT's by default.

    The flip is off: it would put the heart on the right side and contradict every "left" in the
    report. The mean and the standard deviation are our default.
    """

    crop_size: int = 224  # pixels a side of a view
    crop_area: tuple[float, float] = (0.6, 1.0)  # of the square image; crops are square
    flip_probability: float = 0.0  # the paper: 0.5
    rotation_degrees: float = 20.0  # at most, either way, about the centre of the crop
    translation: float = 0.1  # at most, either way, of the crop's width and of its height
    scale: tuple[float, float] = (0.95, 1.05)
    brightness: tuple[float, float] = (0.6, 1.4)
    contrast: tuple[float, float] = (0.6, 1.4)
    blur_sigma: tuple[float, float] = (0.1, 3.0)  # in pixels of a view of 224
    mean: float = 0.5  # of the pixels divided by 255
    std: float = 0.25

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """From `config.augmentation`; a key that is not there keeps its default.

        Raises:
          UserError: for an unknown key, or a value outside the range that makes sense for it.
        """
        values: dict[str, Any] = dict(config.items())
        unknown = sorted(set(values) - set(_LIMITS))
        if unknown:
            raise UserError(
                f"config.augmentation has no key {unknown[0]!r}: use {', '.join(sorted(_LIMITS))}"
            )
        for key, value in values.items():
            _check_value(key, value)
            values[key] = tuple(value) if _is_range(key) else value
        return cls(**values)


_LIMITS = {
    "crop_size": (16, 4096),
    "crop_area": (0.01, 1.0),
    "flip_probability": (0.0, 1.0),
    "rotation_degrees": (0.0, 180.0),
    "translation": (0.0, 1.0),
    "scale": (0.1, 10.0),
    "brightness": (0.0, 10.0),
    "contrast": (0.0, 10.0),
    "blur_sigma": (0.0, 20.0),
    "mean": (0.0, 1.0),
    "std": (0.001, 10.0),
}


def _is_range(key: str) -> bool:
    return isinstance(getattr(Augmentation, key), tuple)


def _check_value(key: str, value: Any) -> None:
    lowest, highest = _LIMITS[key]
    numbers = tuple(value) if _is_range(key) and not isinstance(value, float | int) else (value,)
    if _is_range(key) and len(numbers) != 2:
        raise UserError(f"config.augmentation.{key} is {value}: give it a low and a high number")
    if not lowest <= numbers[0] <= numbers[-1] <= highest:
        raise UserError(
            f"config.augmentation.{key} is {value}: it must lie within [{lowest:g}, {highest:g}]"
        )


class Draws(NamedTuple):
    """The random numbers of a batch. Lengths are fractions of the image, or of the crop."""

    crop_side: Float[Array, " batch"]
    crop_corner: Float[Array, "batch 2"]  # (x, y) of the upper left corner
    flip: Bool[Array, " batch"]
    rotation: Float[Array, " batch"]  # radians, counter-clockwise
    translation: Float[Array, "batch 2"]  # (x, y), of the crop
    scale: Float[Array, " batch"]
    brightness: Float[Array, " batch"]
    contrast: Float[Array, " batch"]
    blur_sigma: Float[Array, " batch"]


def augment(
    images: UInt8[Array, "batch size size"], key: PRNGKeyArray, augmentation: Augmentation
) -> Float[Array, "batch crop_size crop_size 1"]:
    """One random view of each image: a pure function of the images and the key.

    Row i depends on image i, the key and i alone, so the result is the same on every mesh. Outside
    of the image a view is black; outside of the crop it shows the image where there is any.

    Args:
      images: square 8-bit grey images.
      key: a new one for every step.
      augmentation: the ranges to draw from, and the size of the views.

    Raises:
      ValueError: if the images are not uint8 and square.
    """
    _check_images(images)
    size = augmentation.crop_size
    images = _shrink(images, round(MAX_SHRINK * size))
    draws = draw(key, images.shape[0], augmentation)
    views = _sample(images, sampling_matrices(draws, images.shape[1], size), size)
    views = adjust_brightness(views, draws.brightness)
    views = adjust_contrast(views, draws.contrast)
    if augmentation.blur_sigma[1] > 0.0:
        pixels = size / BLUR_REFERENCE_SIZE
        radius = math.ceil(3.0 * augmentation.blur_sigma[1] * pixels)
        views = gaussian_blur(views, draws.blur_sigma * pixels, radius)
    return _normalize(views, augmentation)


def prepare(
    images: UInt8[Array, "batch size size"], augmentation: Augmentation
) -> Float[Array, "batch crop_size crop_size 1"]:
    """The view for evaluation: the whole image, resized with a filter and normalized.

    Raises:
      ValueError: if the images are not uint8 and square.
    """
    _check_images(images)
    return _normalize(_resize(images, augmentation.crop_size), augmentation)


def draw(key: PRNGKeyArray, batch_size: int, augmentation: Augmentation) -> Draws:
    """Draws everything that is random; row i depends on the key and i alone."""
    uniform = jax.random.uniform(key, (batch_size, 11)).T

    def between(number: int, limits: tuple[float, float]) -> Float[Array, " batch"]:
        return limits[0] + (limits[1] - limits[0]) * uniform[number]

    angle = math.radians(augmentation.rotation_degrees)
    shift = (-augmentation.translation, augmentation.translation)
    crop_side = jnp.sqrt(between(0, augmentation.crop_area))
    return Draws(
        crop_side=crop_side,
        crop_corner=((1.0 - crop_side) * uniform[1:3]).T,
        flip=uniform[3] < augmentation.flip_probability,
        rotation=between(4, (-angle, angle)),
        translation=jnp.stack([between(5, shift), between(6, shift)], axis=-1),
        scale=between(7, augmentation.scale),
        brightness=between(8, augmentation.brightness),
        contrast=between(9, augmentation.contrast),
        blur_sigma=between(10, augmentation.blur_sigma),
    )


def sampling_matrices(draws: Draws, image_size: int, crop_size: int) -> Float[Array, "batch 2 3"]:
    """Where each pixel of a view comes from: (x, y) of the image = matrix @ (x, y, 1) of the view.

    A view is the image, cropped, flipped, then rotated, scaled and shifted about its centre. The
    matrix undoes these from the last to the first. Pixel centres have integer coordinates.
    """
    cosine, sine = jnp.cos(draws.rotation) / draws.scale, jnp.sin(draws.rotation) / draws.scale
    sign = jnp.where(draws.flip, -1.0, 1.0)
    linear = jnp.stack([sign * cosine, -sign * sine, sine, cosine], axis=-1).reshape(-1, 2, 2)
    linear = linear * draws.crop_side[:, None, None] * image_size
    first_pixel = 0.5 / crop_size - 0.5 - draws.translation
    centre = (draws.crop_corner + draws.crop_side[:, None] / 2) * image_size - 0.5
    offset = centre + jnp.einsum("bij,bj->bi", linear, first_pixel)
    return jnp.concatenate([linear / crop_size, offset[:, :, None]], axis=-1)


def warp(
    images: Float[Array, "batch size size"], matrices: Float[Array, "batch 2 3"], crop_size: int
) -> Float[Array, "batch crop_size crop_size"]:
    """Samples each image at the places that its matrix gives, bilinearly, with zeros outside."""
    x = jnp.arange(crop_size, dtype=jnp.float32)[None, :]
    y = jnp.arange(crop_size, dtype=jnp.float32)[:, None]

    def sample(
        image: Float[Array, "size size"], matrix: Float[Array, "2 3"]
    ) -> Float[Array, "crop_size crop_size"]:
        columns, rows = (line[0] * x + line[1] * y + line[2] for line in matrix)
        return jax.scipy.ndimage.map_coordinates(image, [rows, columns], order=1)

    return jax.vmap(sample)(images, matrices)


def _sample(
    images: Float[Array, "batch size size"], matrices: Float[Array, "batch 2 3"], crop_size: int
) -> Float[Array, "batch crop_size crop_size"]:
    """`warp`; on a CPU inside a branch that is always taken.

    XLA repeats a producer in each of its consumers if it holds it to be cheap. On a CPU that splits
    the sampling into its gathers and takes five times as long; it does not look into a branch.
    """
    sample = functools.partial(warp, crop_size=crop_size)

    def sample_in_branch(
        images: Float[Array, "batch size size"], matrices: Float[Array, "batch 2 3"]
    ) -> Float[Array, "batch crop_size crop_size"]:
        black = jnp.zeros((images.shape[0], crop_size, crop_size))
        is_valid = jnp.all(jnp.isfinite(matrices))
        return jax.lax.cond(is_valid, sample, lambda *_: black, images, matrices)

    return jax.lax.platform_dependent(images, matrices, cpu=sample_in_branch, default=sample)


def adjust_brightness(
    views: Float[Array, "batch size size"], factor: Float[Array, " batch"]
) -> Float[Array, "batch size size"]:
    """Multiplies each view, as torchvision does, and keeps it within [0, 255]."""
    return jnp.clip(views * factor[:, None, None], 0.0, 255.0)


def adjust_contrast(
    views: Float[Array, "batch size size"], factor: Float[Array, " batch"]
) -> Float[Array, "batch size size"]:
    """Multiplies each view's distance from its mean, as torchvision does, within [0, 255]."""
    mean = jnp.mean(views, axis=(1, 2), keepdims=True)
    return jnp.clip(mean + factor[:, None, None] * (views - mean), 0.0, 255.0)


def gaussian_blur(
    views: Float[Array, "batch size size"], sigma: Float[Array, " batch"], radius: int
) -> Float[Array, "batch size size"]:
    """Blurs each view with its own sigma (pixels); the kernel ends at `radius`, edges reflect.

    A sum of shifted copies: on a CPU ten times as fast as a convolution grouped by image.
    """
    offsets = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    kernel = jnp.exp(-0.5 * jnp.square(offsets / jnp.maximum(sigma, 1e-3)[:, None]))
    kernel = kernel / jnp.sum(kernel, axis=1, keepdims=True)
    for axis in (1, 2):
        views = _convolve(views, kernel, axis)
    return views


def _convolve(
    views: Float[Array, "batch size size"], kernel: Float[Array, "batch taps"], axis: int
) -> Float[Array, "batch size size"]:
    size, radius = views.shape[axis], kernel.shape[1] // 2
    padding = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
    padded = jnp.pad(views, padding, mode="reflect")
    total = jnp.zeros_like(views)
    for tap in range(kernel.shape[1]):
        shifted = jax.lax.slice_in_dim(padded, tap, tap + size, axis=axis)
        total += kernel[:, tap, None, None] * shifted
    return total


def _check_images(images: UInt8[Array, "batch size size"]) -> None:
    if images.ndim != 3 or images.shape[1] != images.shape[2] or images.dtype != jnp.uint8:
        raise ValueError(
            f"images must be uint8 [batch, size, size]: got {images.dtype} {images.shape}"
        )


def _shrink(images: UInt8[Array, "batch size size"], size: int) -> Float[Array, "batch s s"]:
    """Resizes images larger than `size` to it, so that the bilinear sampling does not alias."""
    return _resize(images, size) if images.shape[1] > size else images.astype(jnp.float32)


def _resize(images: UInt8[Array, "batch size size"], size: int) -> Float[Array, "batch s s"]:
    """With a triangle filter, as wide as the shrinking asks for."""
    shape = (images.shape[0], size, size)
    return jax.image.resize(images.astype(jnp.float32), shape, "linear", antialias=True)


def _normalize(
    views: Float[Array, "batch size size"], augmentation: Augmentation
) -> Float[Array, "batch size size 1"]:
    return ((views / 255.0 - augmentation.mean) / augmentation.std)[..., None]
