"""The format `huggingface`: one directory for Transformers, and the towers alone within it."""

import functools
import importlib.resources
import json
from pathlib import Path

import numpy as np

from medclip_jax.convert.formats import dual_encoder, huggingface_towers
from medclip_jax.convert.outputs import Inputs, Outputs
from medclip_jax.convert.preprocessor import write_preprocessing
from medclip_jax.convert.torch_names import MODEL_FILES, huggingface_config, torch_state_dict
from medclip_jax.inference.encoder import Encoder

IMAGE_TOWER, TEXT_TOWER = "image_encoder", "text_encoder"


def write(encoder: Encoder, output: Path) -> None:
    """Writes the model, its tokenizer, its image processor, and each tower that has a class.

    The model is a `VisionTextDualEncoderModel` if that class can hold it, else one of the code that
    is written beside it.
    """
    if dual_encoder.fits(encoder):
        dual_encoder.write(encoder, output)
    else:
        _write_own_model(encoder, output)
    encoder.tokenizer.save(output, encoder.config.text_encoder.max_length)
    channels = encoder.model.image_channels
    write_preprocessing(encoder, output, huggingface=True, channels=channels)
    for name, write_tower in (
        (IMAGE_TOWER, huggingface_towers.write_image_tower),
        (TEXT_TOWER, huggingface_towers.write_text_tower),
    ):
        (output / name).mkdir()
        if not write_tower(encoder, output / name):
            (output / name).rmdir()


def outputs(directory: Path, inputs: Inputs) -> Outputs:
    """What PyTorch makes of the inputs: the model, and each tower under its own name."""
    if is_dual_encoder(directory):
        return dual_encoder.outputs(directory, inputs) | _tower_outputs(directory, inputs)
    own = _own_outputs(directory, inputs)
    try:
        return own | _tower_outputs(directory, inputs)
    except ImportError as error:  # as where torchvision does not fit torch
        reason = " ".join(str(error).split())
        _say_once(f"Transformers' own classes are not checked: they do not import here ({reason})")
        return own


@functools.cache
def _say_once(line: str) -> None:
    print(line)


def _tower_outputs(directory: Path, inputs: Inputs) -> Outputs:
    towers = [directory / name for name in (IMAGE_TOWER, TEXT_TOWER)]
    image, text = (tower if tower.is_dir() else None for tower in towers)
    found = huggingface_towers.tower_outputs(image, text, inputs)
    return {f"{name} (tower)": array for name, array in found.items()}


def _own_outputs(directory: Path, inputs: Inputs) -> Outputs:
    import torch

    from medclip_jax.convert.pytorch_files import medclip_torch  # a copy is in the directory

    model = medclip_torch.load(directory)
    pixels = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(0, 3, 1, 2)))
    ids = torch.from_numpy(inputs.token_ids.astype(np.int64))
    mask = torch.from_numpy(inputs.token_mask)
    with torch.no_grad():
        found = model(pixels, ids, mask)
        if inputs.patch_is_masked.shape[1]:
            masked = torch.from_numpy(inputs.patch_is_masked)
            text = found.get("text_tokens")
            found["patch_predictions"] = model.fill_patches(
                pixels, masked, text, None if text is None else mask
            )
    return {name: tensor.numpy() for name, tensor in found.items()}


def is_dual_encoder(directory: Path) -> bool:
    """Whether the model is a `VisionTextDualEncoderModel`, and not one of our code."""
    config = json.loads((directory / "config.json").read_text())
    return config["model_type"] == "vision-text-dual-encoder"


def _write_own_model(encoder: Encoder, output: Path) -> None:
    from safetensors.numpy import save_file

    text = json.dumps(huggingface_config(encoder), indent=2) + "\n"
    (output / "config.json").write_text(text)
    arrays = torch_state_dict(encoder.variables)
    save_file(arrays, output / "model.safetensors", metadata={"format": "pt"})
    folder = importlib.resources.files("medclip_jax.convert.pytorch_files")
    for name in MODEL_FILES:
        (output / name).write_bytes((folder / name).read_bytes())
