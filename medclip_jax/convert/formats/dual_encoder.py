"""Whole models of two plain towers, for Transformers' `VisionTextDualEncoderModel`.

That class pools the class token of a ViT, and that of a BERT through a pooler with a tanh, and
projects both without a bias. Ours has no tanh and may have a bias. A pooler that makes its input
small leaves the tanh linear, and a bias of the pooler that the projection maps to ours replaces it.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from medclip_jax.convert.formats.huggingface_towers import (
    bert_config,
    vit_config,
    vit_state_dict,
)
from medclip_jax.convert.name_tables import HUGGINGFACE_BERT
from medclip_jax.convert.outputs import Inputs, Outputs
from medclip_jax.convert.to_pytorch import (
    StateDict,
    family_state_dict,
    read_config,
    torch_images,
    write_model,
)
from medclip_jax.inference.encoder import Encoder
from medclip_jax.models.bert import Bert
from medclip_jax.models.heads import ProjectionHead
from medclip_jax.models.vit import VisionTransformer

# 4096 tanh(x / 4096) is x to a millionth up to x = 7; in half precision less would vanish.
TEXT_SCALE = np.float32(2.0**-12)
# The largest part of a projection's bias that may be lost, and the largest that may replace it.
TOLERANCE, LARGEST_BIAS = 1e-6, 7.0


def fits(encoder: Encoder) -> bool:
    """Whether the model is a ViT and a BERT with linear projections of class tokens, no more."""
    model = encoder.model
    others = (
        model.fusion,
        model.matching,
        model.language_head,
        model.pixel_head,
        model.caption_decoder,
        model.region_projection,
        model.initial_bias,
    )
    if any(part is not None for part in others):
        return False
    if not (
        isinstance(model.image_encoder, VisionTransformer)
        and model.image_encoder.pooling == "cls"
        and isinstance(model.text_encoder, Bert)
        and model.text_pooling == "cls"
        and isinstance(model.image_projection, ProjectionHead)
        and not model.image_projection.nonlinear
    ):
        return False
    return all(
        side.lost <= TOLERANCE and np.abs(side.pooler_bias).max() <= LARGEST_BIAS
        for side in (_Projection(encoder, f"{name}_projection") for name in ("image", "text"))
    )


def write(encoder: Encoder, output: Path) -> None:
    """Writes the weights and the config of a model that fits, without its preprocessing."""
    params = encoder.variables["params"]
    image = _Projection(encoder, "image_projection")
    text = _Projection(encoder, "text_projection")
    vit = vit_state_dict(params["image_encoder"])
    vit["pooler.dense.bias"] = image.pooler_bias
    bert = family_state_dict(HUGGINGFACE_BERT, params["text_encoder"])
    bert["pooler.dense.weight"] = TEXT_SCALE * np.eye(len(text.pooler_bias), dtype=np.float32)
    bert["pooler.dense.bias"] = TEXT_SCALE * text.pooler_bias
    logit_scale = -math.log(encoder.temperature)
    state_dict: StateDict = {
        **{f"vision_model.{name}": array for name, array in vit.items()},
        **{f"text_model.{name}": array for name, array in bert.items()},
        "visual_projection.weight": image.weight,
        "text_projection.weight": text.weight / TEXT_SCALE,
        "logit_scale": np.array(logit_scale, np.float32),
    }
    config: dict[str, Any] = {
        "model_type": "vision-text-dual-encoder",
        "architectures": ["VisionTextDualEncoderModel"],
        "vision_config": vit_config(encoder),
        "text_config": bert_config(encoder),
        "projection_dim": len(image.weight),
        "logit_scale_init_value": logit_scale,
    }
    write_model(output, state_dict, config)


def outputs(directory: Path, inputs: Inputs) -> Outputs:
    """`image_embeddings`, `text_embeddings` and `logits_per_image` of Transformers' model."""
    import torch
    from transformers import VisionTextDualEncoderModel

    channels = read_config(directory)["vision_config"]["num_channels"]
    model = VisionTextDualEncoderModel.from_pretrained(directory).eval()
    with torch.no_grad():
        found = model(
            input_ids=torch.from_numpy(inputs.token_ids).long(),
            pixel_values=torch_images(inputs.image, channels),
            attention_mask=torch.from_numpy(inputs.token_mask).long(),
        )
    return {
        "image_embeddings": found.image_embeds.numpy(),
        "text_embeddings": found.text_embeds.numpy(),
        "logits_per_image": found.logits_per_image.numpy(),
    }


class _Projection:
    """A linear projection without a bias, and what to add to its input instead.

    Attributes:
        weight: in PyTorch's layout.
        pooler_bias: the shortest vector that the projection maps to the bias.
        lost: the largest component of the bias that the projection cannot make of any vector.
    """

    weight: Float[np.ndarray, "size features"]
    pooler_bias: Float[np.ndarray, " features"]
    lost: float

    def __init__(self, encoder: Encoder, name: str) -> None:
        params = encoder.variables["params"][name]["output"]
        self.weight = np.ascontiguousarray(np.asarray(params["kernel"], np.float32).T)
        bias = np.asarray(params.get("bias", np.zeros(len(self.weight))), np.float64)
        weight = self.weight.astype(np.float64)
        self.pooler_bias = np.linalg.lstsq(weight, bias, rcond=None)[0].astype(np.float32)
        self.lost = float(np.abs(weight @ self.pooler_bias - bias).max())
