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
from medclip_jax.finite import require_finite
from medclip_jax.inference.batches import call, in_batches, rows_at_once
from medclip_jax.models.image_text_model import ImageTextModel

if TYPE_CHECKING:
    from medclip_jax.inference.encoder import Encoder

_IMAGES = 8  # at most, that are scored at once, with a batch of texts

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

    text_side = in_batches(encode, encoder.tokenize, texts, encoder.batch_size, "texts")
    image_side = _image_side(encoder, images, image_key)
    scores = _score_all(encoder, _match, image_side, text_side, progress)
    require_finite(scores, "matching logits of images", images)
    return scores


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
    scores = _score_all(encoder, _caption_likelihood, image_side, text_side, progress)
    require_finite(scores, "log-likelihoods of texts, given images,", images)
    return scores


def _image_side(encoder: "Encoder", images: Sequence[Any], key: str) -> Side:
    def encode(pixels: np.ndarray) -> Side:
        return {key: encoder.encode_images(pixels)[key]}

    def load(part: Sequence[Any]) -> tuple[np.ndarray]:
        return (encoder.read_images(part),)

    return in_batches(encode, load, images, encoder.batch_size, "images")


def _score_all(
    encoder: "Encoder",
    score: Callable[[ImageTextModel, Any, Side, Side], jax.Array],
    image_side: Side,
    text_side: Side,
    progress: bool,
) -> Float[np.ndarray, "images texts"]:
    """Scores blocks of images with blocks of texts; the last ones are filled up, then cut."""
    num_images, num_texts = _num_rows(image_side), _num_rows(text_side)
    scores = np.zeros((num_images, num_texts), np.float32)
    texts_at_once = rows_at_once(encoder.batch_size, num_texts)
    images_at_once = min(_IMAGES, texts_at_once)
    with tqdm(total=scores.size, unit="pairs", disable=not progress or None) as bar:
        for image in range(0, num_images, images_at_once):
            images = _block(image_side, image, images_at_once)
            for text in range(0, num_texts, texts_at_once):
                texts = _block(text_side, text, texts_at_once)
                block = score(encoder.model, encoder.device_variables, images, texts)
                target = scores[image : image + images_at_once, text : text + texts_at_once]
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
    num_images, num_texts = _num_rows(images), _num_rows(texts)
    images = {key: jnp.repeat(array, num_texts, axis=0) for key, array in images.items()}
    texts = {key: jnp.concatenate([array] * num_images) for key, array in texts.items()}
    return images, texts


def _num_rows(side: Side) -> int:
    return len(next(iter(side.values())))


@functools.partial(jax.jit, static_argnums=0)
def _match(model: ImageTextModel, variables: Any, images: Side, texts: Side) -> jax.Array:
    logits = call(model, variables, "match", *_cross(images, texts))
    return logits.reshape(_num_rows(images), _num_rows(texts))


@functools.partial(jax.jit, static_argnums=0)
def _caption_likelihood(
    model: ImageTextModel, variables: Any, images: Side, texts: Side
) -> jax.Array:
    image, text = _cross(images, texts)
    arrays = image["image_grid"], text["token_ids"], text["token_mask"]
    scores = call(model, variables, "caption_log_likelihood", *arrays)
    return scores.reshape(_num_rows(images), _num_rows(texts))
