"""How the arrays of PyTorch's families of encoders correspond to ours: names and axes, as data.

A `NameTable` for each family is read from PyTorch's side to ours (`from_pytorch`) and the other way
(`to_pytorch`): `translate_name` takes the two patterns in either order, `NameRow.axes` is a
permutation.
"""

import re
from typing import NamedTuple

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
    # The last is CXR-BERT's.
    left_out=("pooler.*", "cls.*", "embeddings.position_ids", "cls_projection_head.*"),
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

_TORCHVISION_LAYER = "encoder.layers.encoder_layer_{layer}"

TORCHVISION_VIT = NameTable(
    family="torchvision vision transformer",
    rows=(
        NameRow("class_token", ("cls_token",)),
        NameRow("encoder.pos_embedding", ("position_embedding",)),
        *_affine("conv_proj", "patch_embedding", axes=CONVOLUTION),
        *_layer_norm(f"{_TORCHVISION_LAYER}.ln_1", "layer_{layer}/attention_norm"),
        NameRow(
            f"{_TORCHVISION_LAYER}.self_attention.in_proj_weight",
            tuple(f"{path}/kernel" for path in _QUERY_KEY_VALUE),
            LINEAR,
        ),
        NameRow(
            f"{_TORCHVISION_LAYER}.self_attention.in_proj_bias",
            tuple(f"{path}/bias" for path in _QUERY_KEY_VALUE),
        ),
        *_affine(f"{_TORCHVISION_LAYER}.self_attention.out_proj", f"{_ATTENTION}/output"),
        *_layer_norm(f"{_TORCHVISION_LAYER}.ln_2", "layer_{layer}/mlp_norm"),
        *_affine(f"{_TORCHVISION_LAYER}.mlp.0", "layer_{layer}/mlp/hidden"),
        *_affine(f"{_TORCHVISION_LAYER}.mlp.3", "layer_{layer}/mlp/output"),
        *_layer_norm("encoder.ln", "norm"),
    ),
    left_out=("heads.*",),
    first_convolution="conv_proj.weight",
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


def translate_name(name: str, source: str, target: str) -> str | None:
    """`name` in the pattern `target` if it fits the pattern `source`, else None.

    >>> translate_name("blocks.3.norm1.bias", "blocks.{i}.norm1.bias", "layer_{i}/norm1/bias")
    'layer_3/norm1/bias'
    """
    expression = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(source))
    match = re.fullmatch(expression, name)
    return None if match is None else target.format(**match.groupdict())
