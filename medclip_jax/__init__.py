"""Pretrain, evaluate and export chest X-ray image-text encoders with JAX and Flax.

The public API is imported on first use, so that `medclip-jax --help` does not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medclip_jax import losses
    from medclip_jax.inference import Encoder, load

__version__ = "0.1.0"
__all__ = ["Encoder", "load", "losses"]

_HOMES = {"Encoder": "medclip_jax.inference", "load": "medclip_jax.inference"}


def __getattr__(name: str) -> Any:
    if name == "losses":
        return importlib.import_module("medclip_jax.losses")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'medclip_jax' has no attribute {name!r}")
