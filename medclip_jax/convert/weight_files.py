"""Pretrained weights as they come: a file of safetensors or PyTorch, a directory, or a hub name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medclip_jax.errors import UserError

_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
# In the order of preference; an index names the files that a large model is cut into.
_DIRECTORY_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_HUB_FILES = ["*.json", "*.txt", "*.safetensors", "pytorch_model*.bin"]
# What training scripts wrap a state dict into.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PARALLEL_PREFIX = "module."  # of torch's DistributedDataParallel


class Weights(NamedTuple):
    """A state dict and what comes with it.

    Attributes:
        arrays: by PyTorch's names.
        config: the `config.json` beside them; empty where there is none.
    """

    arrays: dict[str, np.ndarray]
    config: dict[str, Any]


def read_weights(source: str) -> Weights:
    """Reads a `.safetensors` or PyTorch file, a Hugging Face directory, or a model of the hub.

    PyTorch's files are read as weights only: code in them is not run.

    Raises:
        UserError: there is no such thing, it is damaged, or it holds more than weights.
    """
    path = locate_weights(source)
    return _read_directory(path) if path.is_dir() else Weights(_read_file(path), {})


def locate_weights(source: str) -> Path:
    """The file or directory of that path, else the directory of that model of the hub.

    Raises:
        UserError: there is no such thing, or the hub cannot be reached.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if path.suffix in (".safetensors", *_TORCH_SUFFIXES) or path.is_absolute():
        raise UserError(f"{source}: no such file or directory")
    return _download(source)


def _read_directory(path: Path) -> Weights:
    try:
        config = json.loads((path / "config.json").read_text())
    except OSError as error:
        raise UserError(f"{path}: no config.json; give a Hugging Face model's directory") from error
    except ValueError as error:
        raise UserError(f"{path / 'config.json'}: not JSON ({error})") from error
    found = next((path / name for name in _DIRECTORY_FILES if (path / name).is_file()), None)
    if found is None:
        raise UserError(
            f"{path}: no weights; one of these is needed: {', '.join(_DIRECTORY_FILES)}"
        )
    arrays: dict[str, np.ndarray] = {}
    for part in _parts(found):
        arrays |= _read_file(part)
    return Weights(arrays, config)


def _parts(path: Path) -> list[Path]:
    """The file itself, or the files that an index names."""
    if path.suffix != ".json":
        return [path]
    try:
        names = {str(name) for name in json.loads(path.read_text())["weight_map"].values()}
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: no index of weights; download it again") from error
    if any("/" in name for name in names):
        raise UserError(f"{path}: names files outside of the directory")
    return [path.parent / name for name in sorted(names)]


def _read_file(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in _TORCH_SUFFIXES:
        return _read_torch(path)
    raise UserError(f"{path}: weights must be in one of .safetensors, {', '.join(_TORCH_SUFFIXES)}")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import ml_dtypes  # noqa: F401  # teaches NumPy the name of bfloat16
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return {name: array.astype(np.float32) for name, array in load_file(path).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged or cut short; download it again ({error})") from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path}: reading it needs PyTorch: pip install torch") from error
    import pickle

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: holds code, or more than weights, and was not loaded") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: damaged or cut short; download it again ({reason})") from error
    tensors = _unwrap(loaded)
    if not tensors or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise UserError(f"{path}: holds no state dict")
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def _unwrap(loaded: Any) -> dict[str, Any]:
    """The state dict in what a training script saved."""
    while isinstance(loaded, Mapping):
        wrapper = next((name for name in _WRAPPERS if isinstance(loaded.get(name), Mapping)), None)
        if wrapper is None:
            return {str(name).removeprefix(_PARALLEL_PREFIX): loaded[name] for name in loaded}
        loaded = loaded[wrapper]
    return {}


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES, etag_timeout=10))
    except Exception as error:  # the hub's client raises its own and those of its network libraries
        raise UserError(
            f"{name}: no such file or directory, and the Hugging Face hub did not give it; with a "
            f"network: hf download {name} --local-dir DIR, then give DIR"
        ) from error
