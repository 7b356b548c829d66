"""Pretrained weights, of whatever family, as the variables of one of our encoders."""

import fnmatch
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from medclip_jax.convert import from_pytorch, name_tables
from medclip_jax.convert.weight_files import Weights
from medclip_jax.errors import UserError

Variables = dict[str, Any]


class Fitted(NamedTuple):
    """Variables that have the shapes of the encoder, and what was done to the weights.

    Attributes:
        notes: lines to print: what was loaded, what was left out, what was reshaped.
    """

    variables: Variables
    notes: list[str]


class _Family(NamedTuple):
    """Weights that are told by one of their names.

    Attributes:
        marker: a name that no other family has.
        convert: makes `{"params": …, "batch_stats": …}` of a state dict and the channels.
    """

    table: name_tables.NameTable
    marker: str
    convert: Callable[[Mapping[str, np.ndarray], int], Variables]


def _params(convert: Callable[..., Variables]) -> Callable[[Mapping[str, np.ndarray], int], Any]:
    return lambda arrays, channels: {"params": convert(arrays, channels=channels)}


_IMAGE_FAMILIES = (
    _Family(
        name_tables.TORCHVISION_RESNET,
        "layer1.0.conv1.weight",
        lambda arrays, channels: from_pytorch.resnet_from_torchvision(arrays, channels=channels),
    ),
    _Family(
        name_tables.TORCHVISION_RESNET._replace(family="Hugging Face ResNet", prefix="resnet."),
        "embedder.embedder.convolution.weight",
        lambda arrays, channels: from_pytorch.resnet_from_huggingface(arrays, channels=channels),
    ),
    _Family(
        name_tables.TORCHVISION_VIT,
        "conv_proj.weight",
        _params(from_pytorch.vit_from_torchvision),
    ),
    _Family(name_tables.TIMM_VIT, "patch_embed.proj.weight", _params(from_pytorch.vit_from_timm)),
    _Family(
        name_tables.HUGGINGFACE_VIT,
        "embeddings.patch_embeddings.projection.weight",
        _params(from_pytorch.vit_from_huggingface),
    ),
)
_TEXT_FAMILIES = (
    _Family(
        name_tables.HUGGINGFACE_BERT,
        "embeddings.word_embeddings.weight",
        lambda arrays, _: {"params": from_pytorch.bert_from_huggingface(arrays)},
    ),
)


def fit_image_encoder(weights: Weights, shapes: Variables, *, channels: int) -> Fitted:
    """The variables of an image encoder from the weights of a ResNet or a vision transformer.

    Kernels over three channels are summed for one. Positions of another image size are
    interpolated (bicubic, with antialiasing, as in timm).

    Args:
        weights: what `read_weights` gives.
        shapes: `{"params": …}` and perhaps "batch_stats" of our encoder; only shapes are looked at.
        channels: image channels that our encoder takes.

    Raises:
        UserError: the weights are of another architecture or size.
    """
    return _fit(weights, _IMAGE_FAMILIES, shapes, channels)


def fit_text_encoder(weights: Weights, shapes: Variables) -> Fitted:
    """The variables of a `Bert` from those of a Hugging Face BERT, with heads or without.

    For longer texts than it was trained on, its positions are interpolated (linear); for shorter
    ones, the first are taken. Words beyond our vocabulary are left out.

    Raises:
        UserError: the weights are of another architecture or size.
    """
    return _fit(weights, _TEXT_FAMILIES, shapes, channels=1)


def _fit(
    weights: Weights, families: tuple[_Family, ...], shapes: Variables, channels: int
) -> Fitted:
    family = _find_family(weights.arrays, families)
    converted = flatten_dict(family.convert(weights.arrays, channels), sep="/")
    expected = {name: leaf.shape for name, leaf in flatten_dict(shapes, sep="/").items()}
    _check_names(set(converted), set(expected), family.table.family)
    notes = [f"{len(expected)} arrays of a {family.table.family} were loaded"]
    left = _left_out(weights.arrays, family.table)
    if left:
        notes.append(f"left out: {', '.join(left)}")
    fitted = {}
    for name, shape in expected.items():
        fitted[name] = _reshaped(name, converted[name], shape)
        if converted[name].shape != shape:
            notes.append(f"reshaped: {name} from {converted[name].shape} to {shape}")
    return Fitted(unflatten_dict(fitted, sep="/"), notes)


def _find_family(arrays: Mapping[str, np.ndarray], families: tuple[_Family, ...]) -> _Family:
    for family in families:
        if family.marker in arrays or family.table.prefix + family.marker in arrays:
            return family
    known = ", ".join(family.table.family for family in families)
    raise UserError(
        f"weights of an unknown kind (with {next(iter(arrays), 'nothing')!r}); known are: {known}"
    )


# PyTorch's buffers that say nothing of a model.
_COUNTERS = ("num_batches_tracked", "position_ids")


def _left_out(arrays: Mapping[str, np.ndarray], table: name_tables.NameTable) -> list[str]:
    """What the encoder has no place for, by the first part of its name."""
    names = (name.removeprefix(table.prefix) for name in arrays)
    return sorted(
        {
            name.split(".")[0]
            for name in names
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in table.left_out)
            and not name.endswith(_COUNTERS)
        }
    )


def _check_names(found: set[str], expected: set[str], family: str) -> None:
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    if missing:
        raise UserError(
            f"the weights of a {family} lack {missing[0]} (and {len(missing) - 1} more arrays) of "
            "our encoder: set its size to theirs"
        )
    if unexpected:
        raise UserError(
            f"the weights of a {family} have {unexpected[0]} (and {len(unexpected) - 1} more "
            "arrays), which our encoder has no place for: set its size to theirs"
        )


def _reshaped(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.shape == shape:
        return array
    if name.endswith("/position_embedding") and array.shape[-1] == shape[-1]:
        return _resize_grid(array, shape[1] - 1)
    if name.endswith("/position_embeddings/embedding") and array.shape[-1] == shape[-1]:
        return _resize_line(array, shape[0])
    if name.endswith("/word_embeddings/embedding") and array.shape[-1] == shape[-1]:
        return _without_spare_words(array, shape[0])
    raise UserError(
        f"{name} of the weights is {list(array.shape)}, of our encoder {list(shape)}: "
        "set its size to theirs"
    )


def _resize_grid(positions: np.ndarray, num_patches: int) -> np.ndarray:
    """Positions of a square of patches behind that of the class token, for another square."""
    token, grid = positions[:, :1], positions[:, 1:]
    old, new = (round(n**0.5) for n in (grid.shape[1], num_patches))
    if old * old != grid.shape[1] or new * new != num_patches:
        raise UserError("position embeddings of images that are not square cannot be interpolated")
    grid = grid.reshape(1, old, old, -1)
    resized = jax.image.resize(grid, (1, new, new, grid.shape[-1]), "cubic", antialias=True)
    return np.concatenate([token, np.asarray(resized).reshape(1, num_patches, -1)], axis=1)


def _without_spare_words(words: np.ndarray, vocab_size: int) -> np.ndarray:
    """The rows of the tokenizer's tokens; models often have more, to make a round number."""
    if len(words) < vocab_size:
        raise UserError(
            f"the weights know {len(words)} tokens, the tokenizer has {vocab_size}: leave "
            "config.tokenizer.directory empty, to take the one that belongs to the weights"
        )
    return words[:vocab_size]


def _resize_line(positions: np.ndarray, length: int) -> np.ndarray:
    if length <= len(positions):
        return positions[:length]
    return np.asarray(jax.image.resize(positions, (length, positions.shape[1]), "linear"))
