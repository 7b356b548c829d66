"""Regenerating what is masked: patches of images, and tokens of texts."""

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from medclip_jax.errors import UserError
from medclip_jax.inference.batches import call, in_batches
from medclip_jax.models.image_text_model import ImageTextModel
from medclip_jax.models.patches import patchify, unpatchify

if TYPE_CHECKING:
    from medclip_jax.inference.encoder import Encoder


def patch_grid(encoder: "Encoder") -> tuple[int, int]:
    """See `Encoder.patch_grid`."""
    _check_pixels(encoder)
    side = encoder.config.augmentation.crop_size // _patch_size(encoder)
    return side, side


def view(encoder: "Encoder", images: Sequence[Any]) -> Float[np.ndarray, "images size size"]:
    """See `Encoder.view`."""

    def run(pixels: np.ndarray) -> dict[str, jax.Array]:
        return {"views": encoder.prepare(pixels)}

    def load(part: Sequence[Any]) -> tuple[np.ndarray]:
        return (encoder.read_images(part),)

    return _grey(encoder, in_batches(run, load, images, encoder.batch_size, "images")["views"])


def regenerate(
    encoder: "Encoder",
    images: Sequence[Any],
    patch_masks: Bool[np.ndarray, "images patches"],
    texts: Sequence[str] | None,
) -> Float[np.ndarray, "images size size"]:
    """See `Encoder.regenerate`."""
    _check_pixels(encoder)
    rows, columns = patch_grid(encoder)
    if patch_masks.shape != (len(images), rows * columns):
        raise UserError(
            f"patch_masks must be [{len(images)}, {rows * columns}]: got {patch_masks.shape}"
        )
    if encoder.model.text_encoder is None and texts is not None and any(texts):
        raise UserError("this run reads no texts: regenerate images without them")
    # The share of masked patches is free here, and need not be that of the training.
    model = encoder.model.clone(num_visible=None)

    def run(pixels: np.ndarray, masks: np.ndarray, *text: np.ndarray) -> dict[str, jax.Array]:
        names = ("token_ids", "token_mask", "has_text")
        batch = dict(zip(names, text, strict=True)) | {
            "image": encoder.prepare(pixels),
            "patch_is_masked": masks,
            "text_in_view": np.ones(len(masks), bool),
        }
        return {"regenerated_pixels": _fill_patches(model, encoder.device_variables, batch)}

    def load(part: Sequence[int]) -> tuple[np.ndarray, ...]:
        words = [texts[index] if texts else "" for index in part]
        has_text = np.array([bool(text) for text in words])
        pixels = encoder.read_images([images[index] for index in part])
        return pixels, patch_masks[list(part)], *encoder.tokenize(words), has_text

    places = range(len(images))
    made = in_batches(run, load, places, encoder.batch_size, "images", names=images)
    return _grey(encoder, made["regenerated_pixels"])


def fill_masks(
    encoder: "Encoder",
    token_ids: Int[np.ndarray, "texts length"],
    token_mask: Bool[np.ndarray, "texts length"],
    is_masked: Bool[np.ndarray, "texts length"],
    images: Sequence[Any] | None,
) -> Int[np.ndarray, "texts length"]:
    """See `Encoder.fill_masks`."""
    if encoder.model.language_head is None:
        raise UserError(
            "this run trained no masked language modelling: give "
            "config.objectives.masked_language a weight"
        )
    size, mask_id = encoder.config.data.image_size, encoder.tokenizer.mask_id
    in_view = images is not None

    def run(
        pixels: np.ndarray, ids: np.ndarray, mask: np.ndarray, masked: np.ndarray
    ) -> dict[str, jax.Array]:
        everywhere = np.full(len(ids), in_view)
        batch = {
            "masked_token_ids": np.where(masked, mask_id, ids),
            "token_mask": mask,
            "image_in_view": everywhere,
            "has_image": everywhere,
        }
        image = encoder.prepare(pixels)
        filled, logits = _fill_tokens(encoder.model, encoder.device_variables, image, batch)
        # The logits are there to be checked: the likeliest of NaN is a token like any other.
        return {
            "token_ids": jnp.where(masked, filled, ids),
            "token_logits": jnp.where(masked, logits, 0.0),
        }

    def load(part: Sequence[int]) -> tuple[np.ndarray, ...]:
        rows = list(part)
        pixels = np.zeros((len(rows), size, size), np.uint8)
        if images is not None:
            pixels = encoder.read_images([images[index] for index in rows])
        return pixels, token_ids[rows], token_mask[rows], is_masked[rows]

    places = range(len(token_ids))
    return in_batches(run, load, places, encoder.batch_size, "texts")["token_ids"]


@functools.partial(jax.jit, static_argnums=0)
def _fill_patches(model: ImageTextModel, variables: Any, batch: dict[str, Any]) -> jax.Array:
    """The images of the batch with the predicted pixels on their masked patches."""
    tokens = None
    if model.text_encoder is not None:
        text = batch["token_ids"], batch["token_mask"]
        tokens = call(model, variables, "encode_text", *text)["text_tokens"]
    predicted = call(model, variables, "fill_patches", batch, tokens)
    image, size = batch["image"], math.isqrt(predicted.shape[-1])
    masked = batch["patch_is_masked"][:, :, None]
    filled = jnp.where(masked, predicted, patchify(image, size))
    return unpatchify(filled, image.shape[1] // size, size)


@functools.partial(jax.jit, static_argnums=0)
def _fill_tokens(
    model: ImageTextModel, variables: Any, image: jax.Array, batch: dict[str, Any]
) -> tuple[jax.Array, jax.Array]:
    """The likeliest token at each place, and its logit."""
    grid = call(model, variables, "encode_image", image)["image_grid"]
    logits = call(model, variables, "fill_tokens", batch, grid)
    return jnp.argmax(logits, axis=-1), jnp.max(logits, axis=-1)


def _grey(
    encoder: "Encoder", image: Float[np.ndarray, "images size size 1"]
) -> Float[np.ndarray, "images size size"]:
    """Undoes the normalisation: grey from 0 to 1."""
    augmentation = encoder.config.augmentation
    return np.clip(image[..., 0] * augmentation.std + augmentation.mean, 0.0, 1.0)


def _patch_size(encoder: "Encoder") -> int:
    head = encoder.model.pixel_head
    assert head is not None
    return math.isqrt(head.num_pixels)


def _check_pixels(encoder: "Encoder") -> None:
    if encoder.model.pixel_head is None:
        raise UserError(
            "this run trained no masked vision: give config.objectives.masked_vision a weight"
        )
    if encoder.config.objectives.masked_vision.normalize_patches:
        raise UserError(
            "this run predicts patches up to their mean and contrast; train with "
            "config.objectives.masked_vision.normalize_patches=False to regenerate images"
        )
