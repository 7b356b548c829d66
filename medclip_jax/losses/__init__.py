"""Losses: pure functions of arrays that return `(loss, metrics)`."""

from medclip_jax.losses.contrastive import info_nce
from medclip_jax.losses.sigmoid import sigmoid_contrastive

__all__ = ["info_nce", "sigmoid_contrastive"]
