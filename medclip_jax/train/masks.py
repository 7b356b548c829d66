"""What a step hides of a batch, for the masked objectives that are active."""

import dataclasses
from typing import Self

import jax
from jaxtyping import PRNGKeyArray
from ml_collections import ConfigDict

from medclip_jax.data.masking import (
    PatchMasking,
    TokenMasking,
    draw_in_view,
    mask_patches,
    mask_tokens,
)
from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.models.parts import patch_masking

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class BatchMasks:
    """Adds to a batch the arrays that the masked objectives need.

    Attributes:
        tokens: how tokens are masked; None if no objective asks for it.
        image_rate: share of the rows whose masked tokens are filled with the image in view.
        patches: how patches are masked; None if no objective asks for it.
        text_rate: share of the rows whose masked patches are filled with the text in view.
    """

    tokens: TokenMasking | None = None
    image_rate: float = 0.0
    patches: PatchMasking | None = None
    text_rate: float = 0.0

    @classmethod
    def from_config(cls, config: ConfigDict, tokenizer: Tokenizer) -> Self:
        """From the options of `objectives.masked_language` and `objectives.masked_vision`.

        Raises:
            UserError: a rate, scale or ratio is impossible, or the tokenizer has no mask token.
        """
        language, vision = config.objectives.masked_language, config.objectives.masked_vision
        tokens = None
        if language.weight:
            tokens = TokenMasking.from_tokenizer(
                tokenizer, rates=language.rates, whole_words=language.whole_words
            )
        return cls(
            tokens=tokens,
            image_rate=language.image_rate,
            patches=patch_masking(config) if vision.weight else None,
            text_rate=vision.text_rate,
        )

    def __call__(self, batch: Batch, key: PRNGKeyArray) -> Batch:
        """The batch with `masked_token_ids`, `token_is_masked` [B, L] and `image_in_view` [B], and
        with `patch_is_masked` [B, N] and `text_in_view` [B].
        """
        token_key, image_key, patch_key, text_key = jax.random.split(key, 4)
        num_rows = batch["token_ids"].shape[0]
        if self.tokens is not None:
            ids, masked = mask_tokens(
                token_key, batch["token_ids"], batch["token_mask"], self.tokens
            )
            in_view = draw_in_view(image_key, num_rows, self.image_rate)
            batch = batch | {
                "masked_token_ids": ids,
                "token_is_masked": masked,
                "image_in_view": in_view,
            }
        if self.patches is not None:
            batch = batch | {
                "patch_is_masked": mask_patches(patch_key, num_rows, self.patches),
                "text_in_view": draw_in_view(text_key, num_rows, self.text_rate),
            }
        return batch
