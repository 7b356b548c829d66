"""Our variables and configuration as those of `pytorch_files/medclip_torch.py`."""

import dataclasses
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np

from medclip_jax.models.image_text_model import ImageTextModel
from medclip_jax.models.patches import PatchEmbedding
from medclip_jax.models.resnet import ResNet
from medclip_jax.models.vit import VisionTransformer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medclip_jax.inference.encoder import Encoder

# What the Hugging Face model consists of; the first two are the model in mere PyTorch.
MODEL_FILES = ("medclip_torch.py", "medclip_encoders.py", "modeling_medclip.py")

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
_KINDS = {ResNet: "resnet", VisionTransformer: "vit", PatchEmbedding: "patches"}
# Attributes of our modules that shape no output, or that are said elsewhere.
_NOT_SIZES = (
    "parent",
    "name",
    "dtype",
    "remat",
    "remat_policy",
    "scan_layers",
    "attention",
    "negatives",
)


def torch_state_dict(variables: "Mapping[str, Any]") -> dict[str, np.ndarray]:
    """The state dict of `MedClip`: the same names, but for the last part, with dots.

    Args:
        variables: "params" and "batch_stats".

    Returns:
        Contiguous float32 arrays, matrices transposed, kernels of convolutions as [out, in, height,
        width]; and for each batch normalisation `num_batches_tracked`, an int64 of 0.
    """
    state_dict = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        *modules, name = [key.key for key in path[1:]]
        array = np.asarray(leaf, np.float32)
        if name == "kernel":
            array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
        if name == "mean":
            state_dict[".".join([*modules, "num_batches_tracked"])] = np.zeros((), np.int64)
        state_dict[".".join([*modules, _LEAVES.get(name, name)])] = np.array(array, order="C")
    return state_dict


def huggingface_config(encoder: "Encoder") -> dict[str, Any]:
    """The `config.json` that `AutoModel` and `medclip_torch.load` read."""
    return {
        "model_type": "medclip",
        "architectures": ["MedClipModel"],
        "auto_map": {
            "AutoConfig": "modeling_medclip.MedClipConfig",
            "AutoModel": "modeling_medclip.MedClipModel",
        },
        "architecture": architecture_of(encoder),
    }


def architecture_of(encoder: "Encoder") -> dict[str, Any]:
    """All that `MedClip` needs to know of the model, for JSON; None where a part is missing."""
    model, params = encoder.model, encoder.variables["params"]
    return {
        "channels": model.image_channels,
        "image_pooling": model.image_pooling,
        "text_pooling": model.text_pooling,
        "image_encoder": _image_encoder(model.image_encoder, params["image_encoder"]),
        "text_encoder": _sizes(model.text_encoder),
        "projection": _sizes(model.image_projection),
        "fusion": _fusion(model, params),
        "shared_fusion": model.shared_fusion,
        "matching": _sizes(model.matching),
        "language_head": _sizes(model.language_head),
        "pixel_head": _sizes(model.pixel_head),
        "caption_decoder": _sizes(model.caption_decoder),
        "local_projection_size": getattr(model.region_projection, "features", None),
        "temperature": None if model.learn_temperature else model.initial_temperature,
        "has_bias": model.initial_bias is not None,
    }


def _image_encoder(module: nn.Module, params: "Mapping[str, Any]") -> dict[str, Any]:
    sizes: dict[str, Any] = {"kind": _KINDS[type(module)], **(_sizes(module) or {})}
    if "position_embedding" in params:
        sizes["num_positions"] = params["position_embedding"].shape[1]
    return sizes


def _fusion(model: ImageTextModel, params: "Mapping[str, Any]") -> dict[str, Any] | None:
    # A fusion that no objective reads has no parameters.
    if "fusion" not in params:
        return None
    num_patches = params["fusion"]["image_positions"].shape[0]
    return {**(_sizes(model.fusion) or {}), "num_patches": num_patches}


def _sizes(module: nn.Module | None) -> dict[str, Any] | None:
    """The attributes of a module."""
    if module is None:
        return None
    sizes = {
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(module)
        if field.name not in _NOT_SIZES
    }
    return {name: list(v) if isinstance(v, tuple) else v for name, v in sizes.items()}
