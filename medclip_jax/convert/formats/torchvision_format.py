"""Exports of the image encoder for torchvision: ResNet-18 and ResNet-50 without the classifier."""

from pathlib import Path
from typing import Any

import numpy as np

from medclip_jax.convert.name_tables import TORCHVISION_RESNET
from medclip_jax.convert.outputs import Inputs, Outputs
from medclip_jax.convert.preprocessor import write_preprocessing
from medclip_jax.convert.to_pytorch import (
    family_state_dict,
    read_config,
    torch_images,
    write_model,
)
from medclip_jax.errors import UserError
from medclip_jax.inference.encoder import Encoder
from medclip_jax.models.resnet import ResNet
from medclip_jax.models.vit import VisionTransformer

CHANNELS = 3
STEM = "conv1.weight"


def write(encoder: Encoder, output: Path) -> None:
    """Writes the weights, the architecture's name and the preprocessing into an empty directory.

    The kernels of a stem for grey images become three equal ones of a third, which see the same in
    a grey image that is repeated.

    Raises:
        UserError: torchvision has no such image encoder.
    """
    _check(encoder)
    variables = {group: tree["image_encoder"] for group, tree in encoder.variables.items()}
    state_dict = family_state_dict(TORCHVISION_RESNET, variables)
    repeats = CHANNELS // state_dict[STEM].shape[1]
    state_dict[STEM] = np.repeat(state_dict[STEM] / np.float32(repeats), repeats, axis=1)
    write_model(output, state_dict, {"architecture": encoder.config.image_encoder.name})
    write_preprocessing(encoder, output, huggingface=False, channels=CHANNELS)


def outputs(directory: Path, inputs: Inputs) -> Outputs:
    """The `image_features` and the `image_grid` of torchvision's model with these weights."""
    import torch
    import torchvision
    from safetensors.torch import load_file

    model = getattr(torchvision.models, read_config(directory)["architecture"])()
    unused = model.load_state_dict(load_file(directory / "model.safetensors"), strict=False)
    if unused.unexpected_keys or set(unused.missing_keys) != {"fc.weight", "fc.bias"}:
        raise ValueError(f"{directory}: not the weights of the architecture ({unused})")
    model.fc = torch.nn.Identity()
    grids: list[torch.Tensor] = []
    model.avgpool.register_forward_pre_hook(lambda _, arguments: grids.append(arguments[0]))
    with torch.no_grad():
        features = model.eval()(torch_images(inputs.image, CHANNELS))
    grid = grids[0].flatten(2).transpose(1, 2)
    return {"image_features": features.numpy(), "image_grid": grid.numpy()}


def check_resnet(encoder: Encoder, family: str) -> None:
    """Raises a `UserError` unless the ResNet is one of those of torchvision, which timm has too."""
    module = encoder.model.image_encoder
    assert isinstance(module, ResNet)
    if module.width != 64:
        raise no_place(encoder, family, "image_encoder.width", "its ResNets have 64")
    if module.output_stride != 32:
        raise no_place(encoder, family, "image_encoder.output_stride", "its ResNets have 32")


def no_place(
    encoder: Encoder, family: str, key: str, theirs: str, instead: str = "huggingface"
) -> UserError:
    """The error that names the config key that a family has no place for, and another format."""
    value: Any = encoder.config
    for part in key.split("."):
        value = value[part]
    return UserError(
        f"{family} has no such image encoder: {key} is {value}, {theirs}; use --format {instead}"
    )


def _check(encoder: Encoder) -> None:
    """Raises a `UserError` that names what torchvision does not have."""
    module = encoder.model.image_encoder
    if encoder.model.shared_fusion:
        raise no_place(encoder, "torchvision", "fusion.shared", "and its models have no fusion")
    if not isinstance(module, ResNet):
        instead = "timm" if isinstance(module, VisionTransformer) else "huggingface"
        theirs = "here it is resnet18 or resnet50"
        raise no_place(encoder, "torchvision", "image_encoder.name", theirs, instead)
    check_resnet(encoder, "torchvision")
    if module.pooling != "mean":
        theirs = "its ResNets pool by mean"
        raise no_place(encoder, "torchvision", "image_encoder.pooling", theirs, "timm")
