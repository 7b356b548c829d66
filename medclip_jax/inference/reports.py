"""Writing reports for images with the caption decoder."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from medclip_jax.errors import UserError
from medclip_jax.inference.batches import call, in_batches
from medclip_jax.models.generation import generate
from medclip_jax.models.image_text_model import ImageTextModel

if TYPE_CHECKING:
    from medclip_jax.inference.encoder import Encoder

_ROWS = 64  # of a batch


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
        batches = np.full(len(part), part[0] // _ROWS)
        return encoder.read_images([images[index] for index in part]), batches

    def run(pixels: np.ndarray, batches: np.ndarray) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), int(batches[0]))
        image = encoder.prepare(pixels)
        return _write(encoder.model, settings, tokens, encoder.device_variables, image, key)

    written = in_batches(run, load, range(len(images)), _ROWS, "images", progress)
    return [encoder.tokenizer.decode(row.tolist()) for row in written]


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
) -> jax.Array:
    grid = call(model, variables, "encode_image", image)["image_grid"]
    return generate(
        functools.partial(call, model, variables, "start_caption"),
        functools.partial(call, model, variables, "extend_caption"),
        grid,
        key=key,
        **settings._asdict(),
        **tokens._asdict(),
    )
