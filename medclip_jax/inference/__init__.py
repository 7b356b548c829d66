"""Trained models in use: load a run, embed, match, regenerate, write reports."""

from medclip_jax.inference.encoder import Encoder
from medclip_jax.inference.loading import load

__all__ = ["Encoder", "load"]
