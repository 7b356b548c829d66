"""The configs of the repository made tiny, and batches for them."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from medclip_jax import sharding
from medclip_jax.config import load_config
from medclip_jax.data.augment import Augmentation, prepare
from medclip_jax.data.tokenizer import Tokenizer, load_tokenizer, train_wordpiece
from medclip_jax.models.factory import build_model
from medclip_jax.models.image_text_model import ImageTextModel
from medclip_jax.train import optimizer as optimizers
from medclip_jax.train.masks import BatchMasks
from medclip_jax.train.state import TrainState, create_state, dummy_batch, init_variables
from medclip_jax.train.step import check_objectives, make_train_step

CONFIGS = ("convirt", "matching", "radtex", "mixed", "combined")
# For tests that compile a step of each: the largest two take 20 s or more.
SLOW_LARGE_CONFIGS = (*CONFIGS[:3], *(pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS[3:]))
LENGTH, SIZE, LABELS = 12, 64, 3
TEXTS = (
    "small left pleural effusion is seen",
    "unremarkable radiograph",
    "large right pneumothorax",
    "moderate cardiomegaly is unchanged",
)


def tiny_config(name: str, variant: str = "demo", **changes: Any) -> ConfigDict:
    """A config file with all sizes made small; its objectives and structure stay."""
    config = load_config(f"{Path(__file__).parents[2]}/configs/{name}.py:{variant}")
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2}
    config.image_encoder.update(width=4, patch_size=8, **sizes)
    layers = min(config.text_encoder.num_layers, 1)
    config.text_encoder.update(sizes | {"num_layers": layers, "intermediate_size": 32})
    config.text_encoder.max_length = LENGTH
    if config.fusion.num_layers:
        config.fusion.update(sizes)
    config.caption_decoder.update(hidden_size=16, num_heads=2, intermediate_size=32)
    config.matching_head.hidden_size = 8
    config.projection.size = 8
    config.local_projection_size = 8
    config.augmentation.crop_size = SIZE
    config.optimizer.learning_rate = 0.01
    config.update_from_flattened_dict(changes)
    return config


@functools.cache
def tokenizer(directory: Path) -> Tokenizer:
    """A tokenizer of `TEXTS`, trained in `directory`."""
    train_wordpiece(TEXTS * 3, 80, directory)
    return load_tokenizer(directory)


def batch(tokens: Tokenizer, rows: int = 8, seed: int = 0) -> dict[str, jax.Array]:
    """A batch as the input pipeline gives it, of whole pairs."""
    generator = np.random.default_rng(seed)
    ids, mask = tokens.encode_batch([TEXTS[row % len(TEXTS)] for row in range(rows)], LENGTH)
    return {
        "image": jnp.asarray(generator.integers(0, 255, (rows, SIZE, SIZE), np.uint8)),
        "token_ids": jnp.asarray(ids),
        "token_mask": jnp.asarray(mask),
        "group_ids": jnp.arange(2 * rows, dtype=jnp.int32).reshape(rows, 2),
        "has_image": jnp.ones(rows, bool),
        "has_text": jnp.ones(rows, bool),
        "labels": jnp.asarray(generator.integers(0, 2, (rows, LABELS)), jnp.float32),
    }


def model_and_masks(config: ConfigDict, tokens: Tokenizer) -> tuple[ImageTextModel, BatchMasks]:
    """The model of a config, and what hides parts of its batches."""
    return build_model(config, tokens.vocab_size), BatchMasks.from_config(config, tokens)


def example(config: ConfigDict, masks: BatchMasks) -> dict[str, jax.Array]:
    """A batch to initialise the model with."""
    batch = dummy_batch(config.augmentation.crop_size, LENGTH, LABELS)
    return jax.jit(masks.__call__)(batch, jax.random.key(0))


def variables(model: ImageTextModel, first: dict[str, jax.Array]) -> Any:
    """The model's at its start; compiled as a whole, since op by op takes ten times as long."""
    return jax.jit(lambda: init_variables(model, 0, first))()


def masked(
    config: ConfigDict, masks: BatchMasks, batch: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """A batch as the model takes it: without augmentation, with parts hidden."""
    augmentation = Augmentation.from_config(config.augmentation)

    @jax.jit
    def prepared(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        image = prepare(batch["image"], augmentation)
        return masks(batch | {"image": image}, jax.random.key(1))

    return prepared(batch)


def one_device() -> Mesh:
    """A mesh of the first device: compiling for all eight takes twice as long."""
    types = (AxisType.Auto,) * 2
    return jax.make_mesh((1, 1), ("data", "fsdp"), types, devices=jax.devices()[:1])


def start(
    config: ConfigDict, tokens: Tokenizer, axes: Mapping[str, int] | None = None
) -> tuple[TrainState, Any]:
    """A fresh state and the jitted train step, on one device or a mesh of these axes."""
    model, masks = model_and_masks(config, tokens)
    first = example(config, masks)
    check_objectives(model, config, first)
    shapes = jax.eval_shape(lambda: init_variables(model, 0, first))
    names = list(optimizers.split_frozen(shapes["params"], config.optimizer.frozen)[0])
    optimizer = optimizers.make_optimizer(config.optimizer, names)
    plateau = optimizers.make_plateau(config.schedule)
    mesh = sharding.make_mesh(axes) if axes else one_device()
    state = create_state(model, optimizer, plateau, config, first, mesh)
    step = make_train_step(model, config, masks, optimizer, lambda step: 0.01, mesh)
    return state, jax.jit(step)
