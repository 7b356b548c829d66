"""Exports of the image encoder for timm: ResNet-18, ResNet-50 and vision transformers."""

from pathlib import Path
from typing import Any

from medclip_jax.convert.formats.torchvision_format import check_resnet, no_place
from medclip_jax.convert.name_tables import TIMM_VIT, TORCHVISION_RESNET
from medclip_jax.convert.outputs import Inputs, Outputs
from medclip_jax.convert.preprocessor import write_preprocessing
from medclip_jax.convert.to_pytorch import family_state_dict, torch_images, write_model
from medclip_jax.inference.encoder import Encoder
from medclip_jax.models.resnet import ResNet
from medclip_jax.models.vit import VisionTransformer

POOLINGS = {"cls": "token", "mean": "avg", "max": "max"}
VIT_EPSILON = 1e-6
# An architecture of any size: the arguments of the model override those of its name.
ANY_VIT = "vit_base"


def write(encoder: Encoder, output: Path) -> None:
    """Writes weights, timm's config and the preprocessing into an empty directory.

    Raises:
        UserError: timm has no such image encoder.
    """
    _check(encoder)
    module = encoder.model.image_encoder
    variables = {group: tree["image_encoder"] for group, tree in encoder.variables.items()}
    if isinstance(module, VisionTransformer):
        state_dict = family_state_dict(TIMM_VIT, variables["params"])
    else:
        state_dict = family_state_dict(TORCHVISION_RESNET, variables)
    write_model(output, state_dict, _config(encoder))
    write_preprocessing(encoder, output, huggingface=False, channels=encoder.model.image_channels)


def outputs(directory: Path, inputs: Inputs) -> Outputs:
    """The `image_features` and the `image_grid` of timm's model with these weights."""
    import timm
    import torch

    model: Any = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    with torch.no_grad():
        images = torch_images(inputs.image, model.default_cfg["input_size"][0])
        grid = model.forward_features(images)
        features = model.forward_head(grid)
    grid = grid[:, model.num_prefix_tokens :] if grid.ndim == 3 else grid.flatten(2).mT
    return {"image_features": features.numpy(), "image_grid": grid.numpy()}


def _check(encoder: Encoder) -> None:
    """Raises a `UserError` that names what timm does not have."""
    module = encoder.model.image_encoder
    if encoder.model.shared_fusion:
        raise no_place(encoder, "timm", "fusion.shared", "and its models have no fusion")
    if isinstance(module, ResNet):
        check_resnet(encoder, "timm")
    elif not isinstance(module, VisionTransformer):
        theirs = "here it is a resnet or vit"
        raise no_place(encoder, "timm", "image_encoder.name", theirs)
    elif module.epsilon != VIT_EPSILON:
        theirs = f"in its transformers {VIT_EPSILON}"
        raise no_place(encoder, "timm", "image_encoder.epsilon", theirs)


def _config(encoder: Encoder) -> dict[str, Any]:
    """What `timm.create_model("local-dir:…")` reads."""
    module, augmentation = encoder.model.image_encoder, encoder.config.augmentation
    channels, size = encoder.model.image_channels, augmentation.crop_size
    pooling = POOLINGS[module.pooling]
    arguments: dict[str, Any] = {"in_chans": channels, "global_pool": pooling}
    name = encoder.config.image_encoder.name
    if isinstance(module, VisionTransformer):
        name = f"{ANY_VIT if name == 'vit' else name}_patch16_224"
        arguments |= {
            "img_size": size,
            "patch_size": module.patch_size,
            "embed_dim": module.hidden_size,
            "depth": module.num_layers,
            "num_heads": module.num_heads,
            "fc_norm": False,  # the norm comes before pooling
        }
    return {
        "architecture": name,
        "num_classes": 0,
        "global_pool": pooling,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [channels, size, size],
            "fixed_input_size": isinstance(module, VisionTransformer),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "border",  # the whole image is seen, though timm pads with grey, not black
            "mean": [augmentation.mean] * channels,
            "std": [augmentation.std] * channels,
            "num_classes": 0,
            # What timm adapts when a model is made with other channels or with classes.
            "first_conv": "conv1" if isinstance(module, ResNet) else "patch_embed.proj",
            "classifier": "fc" if isinstance(module, ResNet) else "head",
        },
    }
