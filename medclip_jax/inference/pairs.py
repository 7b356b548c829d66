"""The score of every image with every text, by matching or by the likelihood of the caption."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from medclip_jax.errors import UserError
from medclip_jax.inference.batches import call, in_batches
from medclip_jax.models.image_text_model import ImageTextModel

if TYPE_CHECKING:
    from medclip_jax.inference.encoder import Encoder

# Pairs that are scored at once: these images with these texts.
_IMAGES, _TEXTS = 8, 64

Side = dict[str, Any]


def match(
    encoder: "Encoder", images: Sequence[Any], texts: Sequence[str], progress: bool
) -> Float[np.ndarray, "images texts"]:
    """See `Encoder.match`."""
    if encoder.model.matching is None:
        raise UserError("this run trained no matching: give config.objectives.matching a weight")
    whole = encoder.model.fusion is not None and encoder.model.matching.margin is None
    image_key, text_key = (
        ("image_grid", "text_tokens") if whole else ("image_embeddings", "text_embeddings")
    )

    def encode(token_ids: np.ndarray, token_mask: np.ndarray) -> Side:
        outputs = encoder.apply("encode_text", token_ids, token_mask)
        return {text_key: outputs[text_key], "token_mask": token_mask}

    text_side = in_batches(encode, encoder.tokenize, texts, 64, "texts")
    image_side = _image_side(encoder, images, image_key)
    return _score_all(encoder, _match, image_side, text_side, progress)


def caption_scores(
    encoder: "Encoder", images: Sequence[Any], texts: Sequence[str], progress: bool
) -> Float[np.ndarray, "images texts"]:
    """See `Encoder.caption_scores`."""
    if encoder.model.caption_decoder is None:
        raise UserError(
            "this run trained no captioning: give config.objectives.captioning a weight"
        )
    token_ids, token_mask = encoder.tokenize(texts)
    image_side = _image_side(encoder, images, "image_grid")
    text_side = {"token_ids": token_ids, "token_mask": token_mask}
    return _score_all(encoder, _caption_likelihood, image_side, text_side, progress)


def _image_side(encoder: "Encoder", images: Sequence[Any], key: str) -> Side:
    def encode(pixels: np.ndarray) -> Side:
        return {key: encoder.encode_images(pixels)[key]}

    return in_batches(encode, lambda part: (encoder.read_images(part),), images, 64, "images")


def _score_all(
    encoder: "Encoder",
    score: Callable[[ImageTextModel, Any, Side, Side], jax.Array],
    image_side: Side,
    text_side: Side,
    progress: bool,
) -> Float[np.ndarray, "images texts"]:
    """Scores blocks of images with blocks of texts; the last ones are filled up, then cut."""
    num_images, num_texts = (len(next(iter(side.values()))) for side in (image_side, text_side))
    scores = np.zeros((num_images, num_texts), np.float32)
    with tqdm(total=scores.size, unit="pairs", disable=not progress or None) as bar:
        for image in range(0, num_images, _IMAGES):
            images = _block(image_side, image, _IMAGES)
            for text in range(0, num_texts, _TEXTS):
                block = score(
                    encoder.model, encoder.device_variables, images, _block(text_side, text, _TEXTS)
                )
                target = scores[image : image + _IMAGES, text : text + _TEXTS]
                target[...] = block[: target.shape[0], : target.shape[1]]
                bar.update(target.size)
    return scores


def _block(side: Side, start: int, size: int) -> Side:
    def rows(array: np.ndarray) -> np.ndarray:
        part = array[start : start + size]
        return np.resize(part, (size, *array.shape[1:]))

    return {key: rows(array) for key, array in side.items()}


def _cross(images: Side, texts: Side) -> tuple[Side, Side]:
    """Every image beside every text: rows of pairs, the texts of the first image first."""
    images = {key: jnp.repeat(array, _TEXTS, axis=0) for key, array in images.items()}
    texts = {key: jnp.concatenate([array] * _IMAGES) for key, array in texts.items()}
    return images, texts


@functools.partial(jax.jit, static_argnums=0)
def _match(model: ImageTextModel, variables: Any, images: Side, texts: Side) -> jax.Array:
    logits = call(model, variables, "match", *_cross(images, texts))
    return logits.reshape(_IMAGES, _TEXTS)


@functools.partial(jax.jit, static_argnums=0)
def _caption_likelihood(
    model: ImageTextModel, variables: Any, images: Side, texts: Side
) -> jax.Array:
    image, text = _cross(images, texts)
    arrays = image["image_grid"], text["token_ids"], text["token_mask"]
    scores = call(model, variables, "caption_log_likelihood", *arrays)
    return scores.reshape(_IMAGES, _TEXTS)
