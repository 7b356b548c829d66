"""PyTorch state dicts, as NumPy arrays, to the parameters of our encoders."""

import fnmatch
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from medclip_jax.convert.name_tables import (
    HUGGINGFACE_BERT,
    HUGGINGFACE_VIT,
    TIMM_VIT,
    TORCHVISION_RESNET,
    TORCHVISION_VIT,
    UNCHANGED,
    NameRow,
    NameTable,
    translate_name,
)
from medclip_jax.errors import UserError


def resnet_from_torchvision(
    state_dict: Mapping[str, np.ndarray], *, channels: int
) -> dict[str, Any]:
    """`{"params": ..., "batch_stats": ...}` of a `ResNet` from a torchvision ResNet's state dict.

    Args:
        state_dict: float arrays by torchvision's names.
        channels: image channels that our model takes; 1 sums a kernel over its 3 channels, which
            equals the original on a grey image that is repeated.

    Raises:
        UserError: a key is unknown, or the kernel has another number of channels.
    """
    return _convert(state_dict, TORCHVISION_RESNET, channels)


def resnet_from_huggingface(
    state_dict: Mapping[str, np.ndarray], *, channels: int
) -> dict[str, Any]:
    """As `resnet_from_torchvision`, from a checkpoint file of `ResNetModel`."""
    return _convert(
        {_torchvision_name(name): array for name, array in state_dict.items()},
        TORCHVISION_RESNET,
        channels,
    )


def vit_from_timm(state_dict: Mapping[str, np.ndarray], *, channels: int) -> dict[str, Any]:
    """The params of a `VisionTransformer` from a timm one's state dict; see the ResNet's."""
    return _convert(state_dict, TIMM_VIT, channels)


def vit_from_torchvision(state_dict: Mapping[str, np.ndarray], *, channels: int) -> dict[str, Any]:
    """The params of a `VisionTransformer` from a torchvision one's state dict; see the ResNet's."""
    # Files from before version 0.13 have other names for the MLP.
    renamed = {
        name.replace("mlp.linear_1.", "mlp.0.").replace("mlp.linear_2.", "mlp.3."): array
        for name, array in state_dict.items()
    }
    return _convert(renamed, TORCHVISION_VIT, channels)


def vit_from_huggingface(state_dict: Mapping[str, np.ndarray], *, channels: int) -> dict[str, Any]:
    """The params of a `VisionTransformer` (epsilon 1e-12) from a checkpoint file of `ViTModel`.

    The names are those in the file; recent versions of transformers hold others in memory.
    """
    return _convert(state_dict, HUGGINGFACE_VIT, channels)


def bert_from_huggingface(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The params of a `Bert` from the state dict of a Hugging Face `BertModel`, heads or none.

    Raises:
        UserError: a key is unknown.
    """
    # The oldest checkpoints have TensorFlow's names for the parameters of the norms.
    renamed = {
        name.replace("Norm.gamma", "Norm.weight").replace("Norm.beta", "Norm.bias"): array
        for name, array in state_dict.items()
    }
    return _convert(renamed, HUGGINGFACE_BERT)


def _torchvision_name(name: str) -> str:
    """Torchvision's name of an array of Hugging Face's `ResNetModel`, which counts from 0.

    >>> _torchvision_name("resnet.encoder.stages.0.layers.1.layer.0.convolution.weight")
    'layer1.1.conv1.weight'
    """
    name = name.removeprefix("resnet.")
    stem = re.fullmatch(r"embedder\.embedder\.(convolution|normalization)\.(\w+)", name)
    if stem:
        return f"{'conv1' if stem[1] == 'convolution' else 'bn1'}.{stem[2]}"
    layer = re.fullmatch(
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\."
        r"(?:shortcut|layer\.(\d+))\.(convolution|normalization)\.(\w+)",
        name,
    )
    if layer is None:
        return name
    stage, block, number, kind, array = layer.groups()
    is_convolution = kind == "convolution"
    if number is None:
        place = f"downsample.{0 if is_convolution else 1}"
    else:
        place = f"{'conv' if is_convolution else 'bn'}{int(number) + 1}"
    return f"layer{int(stage) + 1}.{block}.{place}.{array}"


def _convert(
    state_dict: Mapping[str, np.ndarray], table: NameTable, channels: int | None = None
) -> dict[str, Any]:
    """A nested dict with every array of `state_dict` that `table` does not leave out."""
    tree: dict[str, Any] = {}
    for full_name, array in state_dict.items():
        name = full_name.removeprefix(table.prefix)
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in table.left_out):
            continue
        array = np.asarray(array, np.float32)
        if name == table.first_convolution:
            array = _fold_channels(array, name, channels)
        row, paths = _find_row(name, table)
        for path, part in zip(paths, np.split(array, len(paths)), strict=True):
            _insert(tree, path, part if row.axes is UNCHANGED else part.transpose(row.axes))
    return tree


def _find_row(name: str, table: NameTable) -> tuple[NameRow, list[str]]:
    """The row that fits `name`, and its paths with their numbers filled in."""
    for row in table.rows:
        paths = [translate_name(name, row.torch_name, path) for path in row.paths]
        if paths[0] is not None:
            return row, [path for path in paths if path is not None]
    raise UserError(
        f"the weights hold {name!r}, which is no array of a {table.family}: "
        "give weights of that architecture"
    )


def _fold_channels(kernel: np.ndarray, name: str, channels: int | None) -> np.ndarray:
    """A kernel [out, in, height, width] for `channels` input channels."""
    if kernel.shape[1] == channels:
        return kernel
    if kernel.shape[1] == 3 and channels == 1:
        return kernel.sum(axis=1, keepdims=True)
    raise UserError(
        f"{name!r} takes {kernel.shape[1]} image channels, the model {channels}: "
        f"set image_encoder.channels to {kernel.shape[1]}"
    )


def _insert(tree: dict[str, Any], path: str, array: np.ndarray) -> None:
    """Puts an array into nested dicts."""
    *parents, leaf = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[leaf] = array
