"""Writing reports for images with the caption decoder."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medclip_jax.errors import UserError
from medclip_jax.inference.batches import call, in_batches
from medclip_jax.models.generation import generate
from medclip_jax.models.image_text_model import ImageTextModel

if TYPE_CHECKING:
    from medclip_jax.inference.encoder import Encoder


class Settings(NamedTuple):
    """How to write; see `Encoder.generate_reports`."""

    method: str
    num_beams: int
    length_penalty: float
    top_p: float


class _Tokens(NamedTuple):
    """The tokens that frame a text, and how long it may be."""

    start_id: int
    end_id: int
    pad_id: int
    max_length: int


def generate_reports(
    encoder: "Encoder", images: Sequence[Any], settings: Settings, seed: int, progress: bool
) -> list[str]:
    """See `Encoder.generate_reports`."""
    if encoder.model.caption_decoder is None:
        raise UserError(
            "this run trained no captioning: give config.objectives.captioning a weight"
        )
    tokens = _frame(encoder)

    def load(part: Sequence[int]) -> tuple[np.ndarray, ...]:
        batches = np.full(len(part), part[0] // encoder.batch_size)
        return encoder.read_images([images[index] for index in part]), batches

    def run(pixels: np.ndarray, batches: np.ndarray) -> dict[str, jax.Array]:
        key = jax.random.fold_in(jax.random.key(seed), int(batches[0]))
        image = encoder.prepare(pixels)
        return _write(encoder.model, settings, tokens, encoder.device_variables, image, key)

    places = range(len(images))
    written = in_batches(run, load, places, encoder.batch_size, "images", progress, names=images)
    return [encoder.tokenizer.decode(row.tolist()) for row in written["token_ids"]]


def _frame(encoder: "Encoder") -> _Tokens:
    """The first and the last token of an encoded text begin and end those that are written."""
    token_ids, token_mask = encoder.tokenize([""])
    ids = token_ids[0][token_mask[0]]
    max_length = encoder.config.text_encoder.max_length
    return _Tokens(int(ids[0]), int(ids[-1]), encoder.tokenizer.pad_id, max_length)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _write(
    model: ImageTextModel,
    settings: Settings,
    tokens: _Tokens,
    variables: Any,
    image: jax.Array,
    key: jax.Array,
) -> dict[str, jax.Array]:
    """The texts, and their log-likelihoods to be checked: NaN writes words like any other."""
    grid = call(model, variables, "encode_image", image)["image_grid"]
    token_ids = generate(
        functools.partial(call, model, variables, "start_caption"),
        functools.partial(call, model, variables, "extend_caption"),
        grid,
        key=key,
        **settings._asdict(),
        **tokens._asdict(),
    )
    # Of all places, padding too: NaN may well choose padding from the first place on.
    everywhere = jnp.ones(token_ids.shape, bool)
    likelihood = call(model, variables, "caption_log_likelihood", grid, token_ids, everywhere)
    return {"token_ids": token_ids, "report_log_likelihoods": likelihood}
