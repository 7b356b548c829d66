"""The parameters of our encoders as state dicts of PyTorch's families: `from_pytorch` backwards."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Float

from medclip_jax.convert.name_tables import (
    TORCHVISION_RESNET,
    UNCHANGED,
    NameRow,
    NameTable,
    translate_name,
)

StateDict = dict[str, np.ndarray]


def family_state_dict(table: NameTable, variables: Mapping[str, Any]) -> StateDict:
    """The arrays of a family's model without its heads, bit by bit, by its own names.

    Args:
        table: of the family.
        variables: what the converter of `from_pytorch` for this family gives.

    Returns:
        Contiguous float32 arrays, and for each batch norm `num_batches_tracked`, int64 0.

    Raises:
        ValueError: the family has no place for one of the arrays.
    """
    arrays = flatten_dict(variables, sep="/")
    state_dict: StateDict = {}
    while arrays:
        row, name, paths = _find_row(next(iter(arrays)), table)
        parts = [np.asarray(arrays.pop(path), np.float32) for path in paths]
        if row.axes is not UNCHANGED:
            parts = [part.transpose(np.argsort(row.axes)) for part in parts]
        state_dict[name] = np.ascontiguousarray(np.concatenate(parts))
        if name.endswith("running_mean"):
            counter = name.replace("running_mean", "num_batches_tracked")
            state_dict[counter] = np.zeros((), np.int64)
    return state_dict


def huggingface_resnet_state_dict(variables: Mapping[str, Any]) -> StateDict:
    """As `family_state_dict` of a ResNet, by the names in a file of `ResNetModel`."""
    arrays = family_state_dict(TORCHVISION_RESNET, variables)
    return {_huggingface_name(name): array for name, array in arrays.items()}


def write_model(directory: Path, state_dict: StateDict, config: Mapping[str, Any]) -> None:
    """Writes `model.safetensors` and `config.json`, the two files of every family."""
    from safetensors.numpy import save_file

    save_file(state_dict, directory / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (directory / "config.json").write_text(text, encoding="utf-8")


def read_config(directory: Path) -> dict[str, Any]:
    """The `config.json` that `write_model` wrote."""
    return json.loads((directory / "config.json").read_text(encoding="utf-8"))


def torch_images(
    image: Float[np.ndarray, "rows size size 1"] | jax.Array, channels: int
) -> Float[Any, "rows channels size size"]:
    """Our grey images as a tensor in PyTorch's layout, repeated over the channels."""
    import torch

    return torch.from_numpy(np.array(image).transpose(0, 3, 1, 2)).expand(-1, channels, -1, -1)


def _find_row(path: str, table: NameTable) -> tuple[NameRow, str, list[str]]:
    """The row that holds `path`, PyTorch's name, and all paths of that array in their order."""
    for row in table.rows:
        for pattern in row.paths:
            name = translate_name(path, pattern, row.torch_name)
            if name is not None:
                paths = [translate_name(path, pattern, other) for other in row.paths]
                return row, name, [other for other in paths if other is not None]
    raise ValueError(f"{path}: a {table.family} has no place for it")


def _huggingface_name(name: str) -> str:
    """The name in Hugging Face's `ResNetModel` of an array that torchvision calls `name`.

    >>> _huggingface_name("layer1.1.conv1.weight")
    'encoder.stages.0.layers.1.layer.0.convolution.weight'
    """
    stem = re.fullmatch(r"(conv|bn)1\.(\w+)", name)
    if stem:
        return f"embedder.embedder.{_kind(stem[1] == 'conv')}.{stem[2]}"
    layer = re.fullmatch(r"layer(\d+)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)", name)
    assert layer, name
    stage, block, place, number, array = layer.groups()
    if place == "downsample.":
        part = f"shortcut.{_kind(number == '0')}"
    else:
        part = f"layer.{int(number) - 1}.{_kind(place == 'conv')}"
    return f"encoder.stages.{int(stage) - 1}.layers.{block}.{part}.{array}"


def _kind(is_convolution: bool) -> str:
    return "convolution" if is_convolution else "normalization"
