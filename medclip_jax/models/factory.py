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
from medclip_jax.models.layers import ATTENTIONS
from medclip_jax.models.parts import build_parts, check_heads, needs_embeddings, with_speed
from medclip_jax.models.patches import PatchEmbedding
from medclip_jax.models.pooling import POOLINGS
from medclip_jax.models.resnet import OUTPUT_STRIDES, ResNet
from medclip_jax.models.scan import REMAT_POLICIES
from medclip_jax.models.vit import VisionTransformer

COMPUTE_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
PROJECTIONS = {"nonlinear": True, "linear": False}


def build_model(config: ConfigDict, vocab_size: int) -> ImageTextModel:
    """The model that a run's config describes, with the parts that its objectives need.

    Args:
        config: a run's config.
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
    _check_member("attention", config.attention, ("auto", *ATTENTIONS))
    _check_member("remat_policy", config.remat_policy, REMAT_POLICIES)
    image_encoder = build_image(config.image_encoder, config.augmentation.crop_size, dtype)
    text_encoder = build_text(config.text_encoder, vocab_size, dtype)
    embeddings = needs_embeddings(config)
    return ImageTextModel(
        image_encoder=with_speed("image_encoder", image_encoder, config),
        text_encoder=text_encoder and with_speed("text_encoder", text_encoder, config),
        image_projection=projection() if embeddings else None,
        text_projection=projection() if embeddings else None,
        image_pooling=config.image_encoder.pooling,
        text_pooling=config.text_encoder.pooling,
        image_channels=config.image_encoder.channels,
        initial_temperature=config.temperature.init,
        # Without a loss of the embeddings nothing would train the temperature, or the bias.
        learn_temperature=config.temperature.learnable and _divides_by_temperature(config),
        initial_bias=config.sigmoid_bias if config.objectives.sigmoid_contrastive.weight else None,
        **build_parts(config, vocab_size, dtype),
    )


def _divides_by_temperature(config: ConfigDict) -> bool:
    names = ("contrastive", "sigmoid_contrastive", "soft_contrastive", "multi_view_contrastive")
    return any(config.objectives[name].weight for name in names)


def _resnet(
    blocks: tuple[int, ...],
    bottleneck: bool,
    config: ConfigDict,
    image_size: int,
    dtype: DTypeLike,
) -> nn.Module:
    _check_member("image_encoder.pooling of a ResNet", config.pooling, ("mean", "max"))
    _check_member("image_encoder.output_stride", config.output_stride, OUTPUT_STRIDES)
    return ResNet(
        blocks=blocks,
        bottleneck=bottleneck,
        width=config.width,
        output_stride=config.output_stride,
        pooling=config.pooling,
        remat=config.remat,
        dtype=dtype,
    )


def _vit(
    size: tuple[int, int] | None, config: ConfigDict, image_size: int, dtype: Any
) -> nn.Module:
    """A ViT of 12 layers of `size` (hidden size, heads) and patches of 16, or of its own size."""
    _check_member("image_encoder.pooling", config.pooling, POOLINGS)
    if size is None:
        hidden_size, num_heads = config.hidden_size, config.num_heads
        num_layers, patch_size = config.num_layers, config.patch_size
    else:
        (hidden_size, num_heads), num_layers, patch_size = size, 12, 16
    _check_patch_size(config.name, image_size, patch_size)
    check_heads("image_encoder", hidden_size, num_heads)
    return VisionTransformer(
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        patch_size=patch_size,
        pooling=config.pooling,
        epsilon=config.epsilon,
        remat=config.remat,
        dtype=dtype,
    )


def _patches(config: ConfigDict, image_size: int, dtype: DTypeLike) -> nn.Module:
    _check_patch_size(config.name, image_size, config.patch_size)
    return PatchEmbedding(hidden_size=config.hidden_size, patch_size=config.patch_size, dtype=dtype)


def _bert(config: ConfigDict, vocab_size: int, dtype: DTypeLike) -> nn.Module:
    if config.max_length > config.max_position_embeddings:
        raise UserError(
            f"text_encoder.max_length {config.max_length} is above "
            f"text_encoder.max_position_embeddings {config.max_position_embeddings}: "
            "shorten the texts or raise the latter"
        )
    check_heads("text_encoder", config.hidden_size, config.num_heads)
    return Bert(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        dropout_rate=config.dropout_rate,
        epsilon=config.epsilon,
        remat=config.remat,
        dtype=dtype,
    )


def _no_text(config: ConfigDict, vocab_size: int, dtype: DTypeLike) -> None:
    return None


# Each entry is called with (config.image_encoder, image_size, dtype).
IMAGE_ENCODERS: dict[str, Callable[[ConfigDict, int, DTypeLike], nn.Module]] = {
    "resnet18": partial(_resnet, (2, 2, 2, 2), False),
    "resnet50": partial(_resnet, (3, 4, 6, 3), True),
    "vit_tiny": partial(_vit, (192, 3)),
    "vit_small": partial(_vit, (384, 6)),
    "vit_base": partial(_vit, (768, 12)),
    "vit": partial(_vit, None),
    "patches": _patches,
}

# Each entry is called with (config.text_encoder, vocab_size, dtype).
TEXT_ENCODERS: dict[str, Callable[[ConfigDict, int, DTypeLike], nn.Module | None]] = {
    "bert": _bert,
    "none": _no_text,
}


def _check_patch_size(name: str, image_size: int, patch_size: int) -> None:
    if image_size % patch_size:
        raise UserError(
            f"augmentation.crop_size {image_size} does not suit {name}: "
            f"give a multiple of its patch size {patch_size}"
        )


def _choose(key: str, name: str, table: dict[str, Any]) -> Any:
    """The entry of `table` called `name`; `key` is the config key, for the error."""
    _check_member(key, name, table)
    return table[name]


def _check_member(key: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raises a `UserError` that lists what is allowed if `value` is not."""
    names = list(allowed)
    if value not in names:
        raise UserError(f"{key} is {value!r}: give one of {', '.join(map(str, names))}")
