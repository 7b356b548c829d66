"""Tiny encoders that are far from their start, and inputs, to hold exports against."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from support import tiny

from medclip_jax.convert.outputs import Inputs, Outputs, our_outputs
from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.inference import Encoder
from medclip_jax.train.state import init_variables

TEXTS = [*tiny.TEXTS, "", "small right effusion " * 9]


def random_encoder(tokens: Tokenizer, name: str = "convirt", **changes: Any) -> Encoder:
    """A tiny model whose parameters and statistics are all random."""
    encoder = Encoder(tiny.tiny_config(name, **changes), tokens, {})
    shapes = jax.eval_shape(lambda: init_variables(encoder.model, 0, encoder._example()))
    generator = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> np.ndarray:
        kind = jax.tree_util.keystr(path[-1:], simple=True)
        if kind in ("scale", "var"):
            values = generator.uniform(0.5, 1.5, leaf.shape)
        elif kind == "kernel":
            values = generator.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        else:
            values = generator.normal(0, 0.3, leaf.shape)
        return np.asarray(values, leaf.dtype)

    return dataclasses.replace(
        encoder, variables=jax.tree_util.tree_map_with_path(fill, shapes), step=7
    )


def with_part(encoder: Encoder, part: str, variables: dict[str, Any]) -> Encoder:
    """The encoder with other variables of one part: `{"params": …}`, perhaps "batch_stats"."""
    groups = {group: encoder.variables[group] | {part: tree} for group, tree in variables.items()}
    return dataclasses.replace(encoder, variables=dict(encoder.variables) | groups)


def scaled(encoder: Encoder, factors: dict[str, float]) -> Encoder:
    """The encoder with the parameters whose path contains a key multiplied by its factor."""

    def scale(path: Any, leaf: np.ndarray) -> np.ndarray:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for part, factor in factors.items():
            leaf = leaf * np.float32(factor) if part in name else leaf
        return leaf

    variables = jax.tree_util.tree_map_with_path(scale, encoder.variables)
    return dataclasses.replace(encoder, variables=variables)


def random_inputs(encoder: Encoder, size: int | None = None) -> Inputs:
    """Random images, of another size if one is given; texts from an empty to a full one."""
    size = size or encoder.config.augmentation.crop_size
    image = np.random.default_rng(1).normal(size=(len(TEXTS), size, size, 1)).astype(np.float32)
    return Inputs(image, *encoder.tokenize(TEXTS), np.zeros((len(TEXTS), 0), bool))


def differences(encoder: Encoder, inputs: Inputs, found: Outputs) -> dict[str, float]:
    """The largest absolute difference of each output that was found from ours."""
    expected = our_outputs(encoder, inputs)
    assert found and all(found[name].shape == expected[name].shape for name in found)
    assert all(np.abs(expected[name]).max() > 0.05 for name in found)
    return {name: float(np.abs(found[name] - expected[name]).max()) for name in found}


def fresh(directory: Path) -> Path:
    """The directory, made."""
    directory.mkdir()
    return directory
