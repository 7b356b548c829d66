"""Trained models in use: load a run, embed, match, regenerate, write reports."""

from medclip_jax.inference.encoder import Encoder, load

__all__ = ["Encoder", "load"]
