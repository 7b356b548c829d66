"""Losses: pure functions of arrays that return `(loss, metrics)`."""

from medclip_jax.losses.captioning import captioning
from medclip_jax.losses.contrastive import info_nce
from medclip_jax.losses.local_alignment import local_alignment, word_attention
from medclip_jax.losses.masked import masked_language_modeling, masked_patch_regression
from medclip_jax.losses.matching import margin_matching, matching
from medclip_jax.losses.multi_view import multi_view_contrastive
from medclip_jax.losses.sigmoid import sigmoid_contrastive
from medclip_jax.losses.soft_targets import soft_target_contrastive

__all__ = [
    "captioning",
    "info_nce",
    "local_alignment",
    "margin_matching",
    "masked_language_modeling",
    "masked_patch_regression",
    "matching",
    "multi_view_contrastive",
    "sigmoid_contrastive",
    "soft_target_contrastive",
    "word_attention",
]
