"""Builds an `ImageTextModel` from a config; a new encoder is one entry in a table below."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from medclip_jax.errors import UserError
from medclip_jax.models.bert import Bert
from medclip_jax.models.heads import ProjectionHead
from medclip_jax.models.image_text_model import ImageTextModel
from medclip_jax.models.pooling import POOLINGS
from medclip_jax.models.resnet import ResNet
from medclip_jax.models.vit import VisionTransformer

COMPUTE_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
PROJECTIONS = {"nonlinear": True, "linear": False}


def build_model(config: ConfigDict, vocab_size: int) -> ImageTextModel:
    """The model that a run's config describes.

    Args:
        config: a run's config; read are `image_encoder`, `text_encoder`, `projection`,
            `temperature`, `sigmoid_bias`, `compute_dtype` and `augmentation.crop_size`.
        vocab_size: number of the tokenizer's tokens.

    Raises:
        UserError: a name or a size is impossible.
    """
    dtype = _choose("compute_dtype", config.compute_dtype, COMPUTE_DTYPES)
    projection = partial(
        ProjectionHead,
        size=config.projection.size,
        nonlinear=_choose("projection.kind", config.projection.kind, PROJECTIONS),
        use_bias=config.projection.bias,
        dtype=dtype,
    )
    build_image = _choose("image_encoder.name", config.image_encoder.name, IMAGE_ENCODERS)
    build_text = _choose("text_encoder.name", config.text_encoder.name, TEXT_ENCODERS)
    _check_member("text_encoder.pooling", config.text_encoder.pooling, POOLINGS)
    _check_member("image_encoder.channels", config.image_encoder.channels, (1, 3))
    if config.temperature.init <= 0:
        raise UserError(f"temperature.init is {config.temperature.init}: give a number above 0")
    return ImageTextModel(
        image_encoder=build_image(config.image_encoder, config.augmentation.crop_size, dtype),
        text_encoder=build_text(config.text_encoder, vocab_size, dtype),
        image_projection=projection(),
        text_projection=projection(),
        text_pooling=config.text_encoder.pooling,
        image_channels=config.image_encoder.channels,
        initial_temperature=config.temperature.init,
        learn_temperature=config.temperature.learnable,
        # Without the sigmoid loss nothing would train the bias.
        initial_bias=config.sigmoid_bias if config.objectives.sigmoid_contrastive.weight else None,
    )


def _resnet(
    blocks: tuple[int, ...],
    bottleneck: bool,
    config: ConfigDict,
    image_size: int,
    dtype: DTypeLike,
) -> nn.Module:
    _check_member("image_encoder.pooling of a ResNet", config.pooling, ("mean", "max"))
    return ResNet(
        blocks=blocks,
        bottleneck=bottleneck,
        width=config.width,
        pooling=config.pooling,
        remat=config.remat,
        dtype=dtype,
    )


def _vit(
    hidden_size: int, num_heads: int, config: ConfigDict, image_size: int, dtype: DTypeLike
) -> nn.Module:
    _check_member("image_encoder.pooling", config.pooling, POOLINGS)
    encoder = VisionTransformer(
        hidden_size=hidden_size,
        num_layers=12,
        num_heads=num_heads,
        pooling=config.pooling,
        remat=config.remat,
        dtype=dtype,
    )
    if image_size % encoder.patch_size:
        raise UserError(
            f"augmentation.crop_size {image_size} does not suit {config.name}: "
            f"give a multiple of its patch size {encoder.patch_size}"
        )
    return encoder


def _bert(config: ConfigDict, vocab_size: int, dtype: DTypeLike) -> nn.Module:
    if config.max_length > config.max_position_embeddings:
        raise UserError(
            f"text_encoder.max_length {config.max_length} is above "
            f"text_encoder.max_position_embeddings {config.max_position_embeddings}: "
            "shorten the texts or raise the latter"
        )
    if config.hidden_size % config.num_heads:
        raise UserError(
            f"text_encoder.hidden_size {config.hidden_size} is not a multiple of "
            f"text_encoder.num_heads {config.num_heads}"
        )
    return Bert(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        dropout_rate=config.dropout_rate,
        remat=config.remat,
        dtype=dtype,
    )


# Each entry is called with (config.image_encoder, image_size, dtype).
IMAGE_ENCODERS: dict[str, Callable[[ConfigDict, int, DTypeLike], nn.Module]] = {
    "resnet18": partial(_resnet, (2, 2, 2, 2), False),
    "resnet50": partial(_resnet, (3, 4, 6, 3), True),
    "vit_tiny": partial(_vit, 192, 3),
    "vit_small": partial(_vit, 384, 6),
    "vit_base": partial(_vit, 768, 12),
}

# Each entry is called with (config.text_encoder, vocab_size, dtype).
TEXT_ENCODERS: dict[str, Callable[[ConfigDict, int, DTypeLike], nn.Module]] = {"bert": _bert}


def _choose(key: str, name: str, table: dict[str, Any]) -> Any:
    """The entry of `table` called `name`; `key` is the config key, for the error."""
    _check_member(key, name, table)
    return table[name]


def _check_member(key: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raises a `UserError` that lists what is allowed if `value` is not."""
    names = list(allowed)
    if value not in names:
        raise UserError(f"{key} is {value!r}: give one of {', '.join(map(str, names))}")
