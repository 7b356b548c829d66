"""The whole model in PyTorch: inputs of all its parts, and what an export holds of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from support import tiny

from medclip_jax.convert import pytorch_files
from medclip_jax.convert.outputs import Inputs
from medclip_jax.convert.torch_names import MODEL_FILES, huggingface_config, torch_state_dict
from medclip_jax.inference import Encoder


def make_inputs(encoder: Encoder, seed: int = 0) -> Inputs:
    """Random images, and texts of several lengths."""
    generator = np.random.default_rng(seed)
    ids, mask = encoder.tokenize([*tiny.TEXTS[:3], "small"])
    assert 2 < mask.sum(axis=1).min() < mask.sum(axis=1).max()
    patches = 0 if encoder.model.pixel_head is None else encoder.patch_grid[0] ** 2
    return Inputs(
        generator.normal(size=(4, tiny.SIZE, tiny.SIZE, 1)).astype(np.float32),
        ids,
        mask,
        generator.random((4, patches)) < 0.4,
    )


def write(encoder: Encoder, directory: Path) -> Path:
    """What an export holds of a model."""
    save_file(
        torch_state_dict(encoder.variables),
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )
    (directory / "config.json").write_text(json.dumps(huggingface_config(encoder)))
    for name in MODEL_FILES:
        shutil.copy(Path(pytorch_files.__path__[0]) / name, directory)
    return directory


def torch_inputs(inputs: Inputs) -> tuple[Any, Any, Any, Any]:
    """The images, ids, mask and masked patches as PyTorch takes them."""
    import torch

    image = torch.from_numpy(inputs.image.transpose(0, 3, 1, 2).copy())
    ids, mask, masked = (torch.from_numpy(np.array(array)) for array in inputs[1:])
    return image, ids.long(), mask.long(), masked
