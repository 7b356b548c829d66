"""Which parts beside the encoders a run's objectives need, built from its config."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from medclip_jax.data.masking import PatchMasking
from medclip_jax.errors import UserError
from medclip_jax.models.caption_decoder import CaptionDecoder
from medclip_jax.models.fusion import FusionTransformer
from medclip_jax.models.heads import MaskedLanguageHead, PixelHead
from medclip_jax.models.layers import Attention
from medclip_jax.models.matching import NEGATIVES, PairMatching

# The patch size of the vision transformers whose names say their size.
NAMED_PATCH_SIZE = 16


def needs_embeddings(config: ConfigDict) -> bool:
    """Whether an objective reads the embeddings of images and texts."""
    names = ("contrastive", "sigmoid_contrastive", "soft_contrastive", "multi_view_contrastive")
    matching = config.objectives.matching
    by_embeddings = matching.kind == "margin" or not config.fusion.num_layers
    return any(config.objectives[name].weight for name in names) or bool(
        matching.weight and by_embeddings
    )


def patch_masking(config: ConfigDict) -> PatchMasking:
    """How the patches of `objectives.masked_vision` are masked.

    Raises:
        UserError: a scale or ratio is impossible, or the image is not a number of patches.
    """
    options, size = config.objectives.masked_vision, patch_size(config)
    side, rest = divmod(config.augmentation.crop_size, size)
    if rest:
        raise UserError(
            f"config.objectives.masked_vision: augmentation.crop_size must be a multiple of the "
            f"{size} pixels that a patch or cell of the image encoder has"
        )
    return PatchMasking(side, side, tuple(options.scales), tuple(options.ratios))


def patch_size(config: ConfigDict) -> int:
    """Side in pixels of a patch, or of a cell of a ResNet's grid."""
    encoder = config.image_encoder
    if encoder.name.startswith("resnet"):
        return encoder.output_stride
    return NAMED_PATCH_SIZE if encoder.name.startswith("vit_") else encoder.patch_size


def check_heads(part: str, hidden_size: int, num_heads: int) -> None:
    """Raises a UserError if the heads of a part of the config do not share its width evenly."""
    if hidden_size % num_heads:
        raise UserError(
            f"{part}.hidden_size {hidden_size} is not a multiple of {part}.num_heads {num_heads}"
        )


def with_speed(part: str, module: Any, config: ConfigDict) -> Any:
    """The module with the choices of `config` that change speed and memory, but no result.

    They are fields of the same names; a module without one, as a new encoder may be, goes without.

    Args:
        part: the key of the module's options, for errors.
        module: an encoder or the fusion.
        config: of the run.

    Raises:
        UserError: `config.attention` is "cudnn", which the device or the module cannot have.
    """
    fields = type(module).__dataclass_fields__
    options = {name: config[name] for name in ("remat_policy", "scan_layers") if name in fields}
    if "attention" in fields:
        options["attention"] = _choose_attention(part, module, config.attention)
    return module.clone(**options)


def _choose_attention(part: str, module: Any, choice: str) -> Attention:
    """What `config.attention` is for a transformer; cuDNN's for "auto" where it can be had."""
    if choice == "xla":
        return "xla"
    head_size = module.hidden_size // module.num_heads
    obstacle = cudnn_obstacle(jax.local_devices()[0], module.dtype, head_size)
    if choice == "auto":
        return "xla" if obstacle else "cudnn"
    dropout_rate = getattr(module, "dropout_rate", 0.0)
    if not obstacle and dropout_rate:
        obstacle = f"it drops no weights: {part}.dropout_rate is {dropout_rate}, and must be 0"
    if obstacle:
        raise UserError(f"config.attention is cudnn for the {part}, but {obstacle}; give auto")
    return "cudnn"


def cudnn_obstacle(device: jax.Device, dtype: DTypeLike, head_size: int) -> str | None:
    """What keeps cuDNN's flash attention from a transformer on the device; None if nothing does.

    The conditions are those of JAX's `jax.nn.dot_product_attention` for all GPUs since Ampere.
    """
    capability = str(getattr(device, "compute_capability", ""))  # "8.0"; on AMD's "gfx942"
    if device.platform != "gpu" or not capability.replace(".", "").isdigit():
        return f"the device is no NVIDIA GPU ({device.device_kind})"
    if int(capability.split(".")[0]) < 8:
        return f"the GPU's compute capability is {capability}, and must be 8.0 or more"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"compute_dtype is {jnp.dtype(dtype)}, and must be bfloat16"
    if head_size % 8 or head_size > 128:
        return f"its heads have {head_size} channels, and must have a multiple of 8 up to 128"
    return None


def build_parts(config: ConfigDict, vocab_size: int, dtype: DTypeLike) -> dict[str, Any]:
    """The arguments of `ImageTextModel` beside the encoders and projections.

    Raises:
        UserError: an objective needs a part that the config does not have.
    """
    _check_parts(config)
    objectives, fusion = config.objectives, config.fusion
    parts: dict[str, Any] = {"shared_fusion": fusion.shared}
    if fusion.num_layers:
        check_heads("fusion", fusion.hidden_size, fusion.num_heads)
        if fusion.hidden_size % 4:
            raise UserError(
                f"fusion.hidden_size is {fusion.hidden_size}: give a multiple of 4, for the sines "
                "and cosines of rows and columns"
            )
        transformer = FusionTransformer(
            hidden_size=fusion.hidden_size,
            num_layers=fusion.num_layers,
            num_heads=fusion.num_heads,
            dropout_rate=fusion.dropout_rate,
            remat=fusion.remat,
            masked_images=bool(objectives.masked_vision.weight),
            dtype=dtype,
        )
        parts["fusion"] = with_speed("fusion", transformer, config)
    if objectives.matching.weight:
        parts["matching"] = PairMatching(
            negatives=objectives.matching.negatives,
            hidden_size=config.matching_head.hidden_size,
            margin=objectives.matching.margin if objectives.matching.kind == "margin" else None,
        )
    if objectives.masked_language.weight:
        parts["language_head"] = MaskedLanguageHead(dtype=dtype)
    if objectives.masked_vision.weight:
        parts["pixel_head"] = PixelHead(patch_size(config) ** 2, dtype=dtype)
        parts["num_visible"] = patch_masking(config).num_visible
    if objectives.captioning.weight:
        decoder = config.caption_decoder
        check_heads("caption_decoder", decoder.hidden_size, decoder.num_heads)
        parts["caption_decoder"] = CaptionDecoder(
            vocab_size=vocab_size,
            max_length=config.text_encoder.max_length,
            bidirectional=objectives.captioning.backward,
            dtype=dtype,
            **decoder,
        )
    if objectives.local_contrastive.weight:
        for name in ("region_projection", "word_projection"):
            parts[name] = nn.Dense(config.local_projection_size, dtype=dtype)
    return parts


def _check_parts(config: ConfigDict) -> None:
    """Raises a UserError where objectives and parts do not fit."""
    objectives, matching = config.objectives, config.objectives.matching
    for key, value, known in (
        ("objectives.matching.kind", matching.kind, ("binary", "margin")),
        ("objectives.matching.negatives", matching.negatives, NEGATIVES),
    ):
        if value not in known:
            raise UserError(f"{key} is {value!r}: give one of {', '.join(known)}")
    for name in ("masked_language", "masked_vision"):
        if objectives[name].weight and not config.fusion.num_layers:
            raise UserError(f"config.objectives.{name} needs config.fusion.num_layers above 0")
    if config.text_encoder.name == "none":
        for name, options in objectives.items():
            if options.weight and name not in ("captioning", "masked_vision"):
                raise UserError(f"config.objectives.{name} needs a text_encoder, which is none")
    if matching.weight and matching.negatives == "hard" and not needs_embeddings(config):
        raise UserError(
            "config.objectives.matching.negatives hard needs embeddings: give contrastive a weight"
        )
    if config.fusion.shared:
        if not config.fusion.num_layers:
            raise UserError("config.fusion.shared needs config.fusion.num_layers above 0")
        if objectives.captioning.weight or objectives.local_contrastive.weight:
            raise UserError(
                "config.fusion.shared leaves images without an encoder of their own, which "
                "captioning and local_contrastive need; set it to False"
            )
