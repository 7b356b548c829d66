"""Encoders that start from pretrained weights: `image_encoder.init` and `text_encoder.init`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from medclip_jax.convert.pretrained import Fitted, fit_image_encoder, fit_text_encoder
from medclip_jax.convert.weight_files import Weights, locate_weights, read_weights
from medclip_jax.errors import UserError
from medclip_jax.models.bert import Bert
from medclip_jax.models.image_text_model import ImageTextModel
from medclip_jax.models.resnet import ResNet
from medclip_jax.models.vit import VisionTransformer

Variables = dict[str, Any]

# The file in a workdir that keeps the given weights: what evaluation compares with.
INITIAL_ENCODERS = "initial_encoders.safetensors"

# Our config key, and the name in a Hugging Face config.json, of what an encoder must agree in.
_BERT_SIZES = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "epsilon": "layer_norm_eps",
}
_VIT_SIZES = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "patch_size": "patch_size",
    "epsilon": "layer_norm_eps",
}
# What our encoders compute, by the names of Hugging Face's configs; one that is absent has the
# first value. CXR-BERT's type is its own, but its encoder is BERT's.
_BERT_FIXED = {
    "model_type": ("bert", "cxr-bert"),
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
}
_VIT_FIXED = {"model_type": ("vit",), "hidden_act": ("gelu",), "qkv_bias": (True,)}
_RESNET_FIXED = {
    "model_type": ("resnet",),
    "hidden_act": ("relu",),
    "downsample_in_first_stage": (False,),
    "downsample_in_bottleneck": (False,),
}


def read_initial(
    config: ConfigDict, model: ImageTextModel, shapes: Mapping[str, Any]
) -> tuple[Variables, list[str]]:
    """The variables of the encoders that the config gives weights for, and what was done to them.

    Args:
        config: a run's config.
        model: the model of that config.
        shapes: its variables; only their shapes are looked at.

    Returns:
        A part of the tree of `shapes`, empty where nothing is given; and lines to print.

    Raises:
        UserError: weights are missing or damaged, not finite, or of another architecture or size.
    """
    flat: dict[str, Any] = {}
    notes = []
    for part in ("image_encoder", "text_encoder"):
        source = config[part].init
        if source:
            weights = read_weights(source)
            fitted = _fit(part, weights, config, model, _part(shapes, part))
            _check_finite(f"config.{part}.init {source}", weights, fitted.variables)
            notes += [f"{part} from {source}: {note}" for note in fitted.notes]
            for collection, tree in fitted.variables.items():
                flat[f"{collection}/{part}"] = tree
    return unflatten_dict(flat, sep="/"), notes


def _check_finite(what: str, weights: Weights, variables: Variables) -> None:
    """Raises a UserError that names the arrays in which a number is NaN or infinite."""

    def bad(arrays: Mapping[str, Any]) -> list[str]:
        return [name for name, array in arrays.items() if not np.isfinite(array).all()]

    if found := bad(flatten_dict(variables, sep="/")):
        raise UserError(
            f"{what}: the numbers of {', '.join(bad(weights.arrays)[:3]) or found[0]} are not all "
            "finite; give weights of a run that did not diverge"
        )


def tokenizer_directory(config: ConfigDict) -> Path | None:
    """Where the run's tokenizer comes from: the one named, or that of the text encoder's weights.

    None where one is to be trained.

    Raises:
        UserError: the weights of the text encoder have no tokenizer with them.
    """
    if config.tokenizer.directory:
        return Path(config.tokenizer.directory)
    if not config.text_encoder.init:
        return None
    found = locate_weights(config.text_encoder.init)
    if found.is_dir():
        return found
    raise UserError(
        f"config.text_encoder.init {found} is a file, without a tokenizer: give the directory of "
        "the model, or set config.tokenizer.directory to that of its tokenizer"
    )


def _part(shapes: Mapping[str, Any], part: str) -> Variables:
    return {name: tree[part] for name, tree in shapes.items() if part in tree}


def _fit(
    part: str, weights: Weights, config: ConfigDict, model: ImageTextModel, shapes: Variables
) -> Fitted:
    encoder: Any = model.image_encoder if part == "image_encoder" else model.text_encoder
    if isinstance(encoder, Bert):
        _check_hugging_face(part, weights.config, encoder, _BERT_SIZES, _BERT_FIXED)
        return fit_text_encoder(weights, shapes)
    if isinstance(encoder, VisionTransformer):
        _check_hugging_face(part, weights.config, encoder, _VIT_SIZES, _VIT_FIXED)
    elif isinstance(encoder, ResNet):
        _check_hugging_face(part, weights.config, encoder, {}, _RESNET_FIXED)
    else:
        raise UserError(
            f"config.{part}.init needs an encoder that has published weights, not "
            f"config.{part}.name={config[part].name}"
        )
    return fit_image_encoder(weights, shapes, channels=config.image_encoder.channels)


def _check_hugging_face(
    part: str,
    theirs: Mapping[str, Any],
    encoder: Any,
    sizes: Mapping[str, str],
    fixed: Mapping[str, tuple[Any, ...]],
) -> None:
    """Raises a UserError where a Hugging Face config says that the encoder computes otherwise."""
    if "model_type" not in theirs:  # weights alone, or timm's config
        return
    for key, known in fixed.items():
        value = theirs.get(key, known[0])
        if value not in known:
            raise UserError(
                f"config.{part}.init: its config.json has {key} {value!r}; only "
                f"{' or '.join(map(str, known))} can be read here"
            )
    given = {key: theirs[name] for key, name in sizes.items() if name in theirs}
    wrong = {key for key, value in given.items() if value != getattr(encoder, key)}
    if not wrong:
        return
    if part == "image_encoder" and wrong != {"epsilon"}:
        given = {"name": "vit"} | given  # only this one has a size of its own
    else:
        given = {key: value for key, value in given.items() if key in wrong}
    flags = " ".join(f"--config.{part}.{key}={value}" for key, value in given.items())
    raise UserError(f"config.{part}.init is of another size or epsilon; give {flags}")
