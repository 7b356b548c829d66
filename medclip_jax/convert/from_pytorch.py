"""PyTorch state dicts, as NumPy arrays, to the parameters of our encoders.

The correspondence of names is data: a `NameTable` for each family of checkpoints, read here from
PyTorch's side to ours and as readily the other way (`translate_name` takes the two patterns in
either order, `NameRow.axes` is a permutation).
"""

import fnmatch
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from medclip_jax.errors import UserError

LINEAR = (1, 0)  # [out, in] to [in, out]
CONVOLUTION = (2, 3, 1, 0)  # [out, in, height, width] to [height, width, in, out]
UNCHANGED = None


class NameRow(NamedTuple):
    """A PyTorch array and the one or more of ours that hold it.

    Attributes:
        torch_name: the key in the state dict; "{layer}" and the like stand for a number.
        paths: where our arrays lie, with the same placeholders. If there are several, they are
            equal parts of PyTorch's array along its first axis, in order.
        axes: how the axes of each part are permuted from PyTorch's to ours.
    """

    torch_name: str
    paths: tuple[str, ...]
    axes: tuple[int, ...] | None = UNCHANGED


class NameTable(NamedTuple):
    """All arrays of one family of checkpoints.

    Attributes:
        family: its name, for messages.
        rows: the arrays that are converted.
        left_out: glob patterns of the keys that our encoders have no place for.
        prefix: what precedes each key in a model with heads.
        first_convolution: the key of the kernel that sees the image's channels, if there is one.
    """

    family: str
    rows: tuple[NameRow, ...]
    left_out: tuple[str, ...]
    prefix: str = ""
    first_convolution: str | None = None


def _affine(
    torch_name: str, *paths: str, axes: tuple[int, ...] = LINEAR
) -> tuple[NameRow, NameRow]:
    """The rows of a layer with a kernel and a bias."""
    return (
        NameRow(f"{torch_name}.weight", tuple(f"{path}/kernel" for path in paths), axes),
        NameRow(f"{torch_name}.bias", tuple(f"{path}/bias" for path in paths)),
    )


def _layer_norm(torch_name: str, path: str) -> tuple[NameRow, NameRow]:
    return (
        NameRow(f"{torch_name}.weight", (f"{path}/scale",)),
        NameRow(f"{torch_name}.bias", (f"{path}/bias",)),
    )


def _convolution_and_norm(convolution: str, norm: str, block: str, suffix: str) -> list[NameRow]:
    """The rows of a ResNet's convolution and of the batch norm that follows it."""
    kernel = f"params/{block}conv{suffix}/kernel"
    return [
        NameRow(f"{convolution}.weight", (kernel,), CONVOLUTION),
        NameRow(f"{norm}.weight", (f"params/{block}norm{suffix}/scale",)),
        NameRow(f"{norm}.bias", (f"params/{block}norm{suffix}/bias",)),
        NameRow(f"{norm}.running_mean", (f"batch_stats/{block}norm{suffix}/mean",)),
        NameRow(f"{norm}.running_var", (f"batch_stats/{block}norm{suffix}/var",)),
    ]


_BLOCK = "layer{stage}.{block}"
_ATTENTION = "layer_{layer}/attention"
_QUERY_KEY_VALUE = tuple(f"{_ATTENTION}/{name}" for name in ("query", "key", "value"))

TORCHVISION_RESNET = NameTable(
    family="torchvision ResNet",
    rows=(
        *_convolution_and_norm("conv1", "bn1", "stem_", ""),
        *_convolution_and_norm(
            f"{_BLOCK}.conv{{number}}",
            f"{_BLOCK}.bn{{number}}",
            "stage{stage}_block{block}/",
            "{number}",
        ),
        *_convolution_and_norm(
            f"{_BLOCK}.downsample.0",
            f"{_BLOCK}.downsample.1",
            "stage{stage}_block{block}/shortcut_",
            "",
        ),
    ),
    left_out=("fc.*", "classifier.*", "*.num_batches_tracked"),
    first_convolution="conv1.weight",
)

_ENCODER_LAYER = "encoder.layer.{layer}"

HUGGINGFACE_BERT = NameTable(
    family="Hugging Face BERT",
    rows=(
        *(
            NameRow(f"embeddings.{name}.weight", (f"embeddings/{name}/embedding",))
            for name in ("word_embeddings", "position_embeddings", "token_type_embeddings")
        ),
        *_layer_norm("embeddings.LayerNorm", "embeddings/norm"),
        *_affine(f"{_ENCODER_LAYER}.attention.self.query", f"{_ATTENTION}/query"),
        *_affine(f"{_ENCODER_LAYER}.attention.self.key", f"{_ATTENTION}/key"),
        *_affine(f"{_ENCODER_LAYER}.attention.self.value", f"{_ATTENTION}/value"),
        *_affine(f"{_ENCODER_LAYER}.attention.output.dense", f"{_ATTENTION}/output"),
        *_layer_norm(
            f"{_ENCODER_LAYER}.attention.output.LayerNorm", "layer_{layer}/attention_norm"
        ),
        *_affine(f"{_ENCODER_LAYER}.intermediate.dense", "layer_{layer}/mlp/hidden"),
        *_affine(f"{_ENCODER_LAYER}.output.dense", "layer_{layer}/mlp/output"),
        *_layer_norm(f"{_ENCODER_LAYER}.output.LayerNorm", "layer_{layer}/mlp_norm"),
    ),
    left_out=("pooler.*", "cls.*", "embeddings.position_ids"),
    prefix="bert.",
)

TIMM_VIT = NameTable(
    family="timm vision transformer",
    rows=(
        NameRow("cls_token", ("cls_token",)),
        NameRow("pos_embed", ("position_embedding",)),
        *_affine("patch_embed.proj", "patch_embedding", axes=CONVOLUTION),
        *_layer_norm("blocks.{layer}.norm1", "layer_{layer}/attention_norm"),
        *_affine("blocks.{layer}.attn.qkv", *_QUERY_KEY_VALUE),
        *_affine("blocks.{layer}.attn.proj", f"{_ATTENTION}/output"),
        *_layer_norm("blocks.{layer}.norm2", "layer_{layer}/mlp_norm"),
        *_affine("blocks.{layer}.mlp.fc1", "layer_{layer}/mlp/hidden"),
        *_affine("blocks.{layer}.mlp.fc2", "layer_{layer}/mlp/output"),
        *_layer_norm("norm", "norm"),
    ),
    left_out=("head.*",),
    first_convolution="patch_embed.proj.weight",
)

HUGGINGFACE_VIT = NameTable(
    family="Hugging Face vision transformer",
    rows=(
        NameRow("embeddings.cls_token", ("cls_token",)),
        NameRow("embeddings.position_embeddings", ("position_embedding",)),
        *_affine("embeddings.patch_embeddings.projection", "patch_embedding", axes=CONVOLUTION),
        *_affine(f"{_ENCODER_LAYER}.attention.attention.query", f"{_ATTENTION}/query"),
        *_affine(f"{_ENCODER_LAYER}.attention.attention.key", f"{_ATTENTION}/key"),
        *_affine(f"{_ENCODER_LAYER}.attention.attention.value", f"{_ATTENTION}/value"),
        *_affine(f"{_ENCODER_LAYER}.attention.output.dense", f"{_ATTENTION}/output"),
        *_layer_norm(f"{_ENCODER_LAYER}.layernorm_before", "layer_{layer}/attention_norm"),
        *_affine(f"{_ENCODER_LAYER}.intermediate.dense", "layer_{layer}/mlp/hidden"),
        *_affine(f"{_ENCODER_LAYER}.output.dense", "layer_{layer}/mlp/output"),
        *_layer_norm(f"{_ENCODER_LAYER}.layernorm_after", "layer_{layer}/mlp_norm"),
        *_layer_norm("layernorm", "norm"),
    ),
    left_out=("pooler.*", "classifier.*", "embeddings.mask_token"),
    prefix="vit.",
    first_convolution="embeddings.patch_embeddings.projection.weight",
)


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


def translate_name(name: str, source: str, target: str) -> str | None:
    """`name` in the pattern `target` if it fits the pattern `source`, else None.

    >>> translate_name("blocks.3.norm1.bias", "blocks.{i}.norm1.bias", "layer_{i}/norm1/bias")
    'layer_3/norm1/bias'
    """
    expression = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(source))
    match = re.fullmatch(expression, name)
    return None if match is None else target.format(**match.groupdict())


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
