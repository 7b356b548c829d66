"""All that a trained model computes for images and texts, by name: what an export must repeat."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from medclip_jax.models.factory import build_model
from medclip_jax.models.image_text_model import ImageTextModel

if TYPE_CHECKING:
    from medclip_jax.inference.encoder import Encoder

Outputs = dict[str, np.ndarray]


class Inputs(NamedTuple):
    """What a model takes, row by row a pair.

    Attributes:
        image: normalised, as `Encoder.prepare` gives it.
        token_ids: as `Encoder.tokenize` gives them, with `token_mask`.
        patch_is_masked: true on the patches, row by row, that masked vision predicts; without a
            column where the model predicts none.
    """

    image: Float[np.ndarray, "rows size size 1"]
    token_ids: Int[np.ndarray, "rows length"]
    token_mask: Bool[np.ndarray, "rows length"]
    patch_is_masked: Bool[np.ndarray, "rows patches"]


def our_outputs(encoder: "Encoder", inputs: Inputs) -> Outputs:
    """Every output that the model has, of the names and shapes below, computed in float32.

    image_features [N, F], image_grid [N, cells, C]; image_embeddings [N, D]; text_tokens [N, L, C];
    text_embeddings [N, D]; logits_per_image [N, N], the cosines divided by the temperature;
    match_logits [N], of the pairs; token_logits [N, L, V], with the image in view;
    patch_predictions [N, patches, pixels], with the text in view; caption_logits [N, L - 1, V],
    read forwards.
    """
    config = encoder.config.copy_and_resolve_references()
    config.compute_dtype, config.attention = "float32", "xla"
    model = build_model(config, encoder.tokenizer.vocab_size).clone(num_visible=None)
    with jax.default_matmul_precision("highest"):
        run = jax.jit(lambda variables: _outputs(model, variables, inputs))
        outputs = run(encoder.device_variables)
    return {name: np.asarray(array) for name, array in outputs.items()}


def _outputs(model: ImageTextModel, variables: dict, inputs: Inputs) -> dict[str, jax.Array]:
    rows = len(inputs.image)
    always = np.ones(rows, bool)
    batch = {
        "image": inputs.image,
        "masked_token_ids": inputs.token_ids,
        "token_mask": inputs.token_mask,
        "patch_is_masked": inputs.patch_is_masked,
        **dict.fromkeys(("has_image", "has_text", "image_in_view", "text_in_view"), always),
    }
    ids, mask = inputs.token_ids, inputs.token_mask

    def call(method: str, *arrays: Any) -> Any:
        return model.apply(variables, *arrays, method=method)

    outputs = dict(call("encode_image", inputs.image))
    if model.text_encoder is not None:
        outputs |= call("encode_text", ids, mask)
    if "image_embeddings" in outputs and "text_embeddings" in outputs:
        cosines = outputs["image_embeddings"] @ outputs["text_embeddings"].T
        outputs["logits_per_image"] = cosines / call("scalars")["temperature"]
    if model.matching is not None:
        outputs["match_logits"] = call("match", outputs, outputs | {"token_mask": mask})
    if model.language_head is not None:
        outputs["token_logits"] = call("fill_tokens", batch, outputs["image_grid"])
    if model.pixel_head is not None:
        outputs["patch_predictions"] = call("fill_patches", batch, outputs.get("text_tokens"))
    if model.caption_decoder is not None:
        outputs["caption_logits"] = model.apply(
            variables,
            outputs["image_grid"],
            ids,
            mask,
            method=lambda model, *arrays: model.caption_decoder(*arrays, deterministic=True)[
                "caption_logits"
            ],
        )
    return outputs
