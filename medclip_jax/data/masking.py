"""What the masked objectives hide of a batch: tokens, patches, or the whole other modality.

All is drawn on the accelerator, inside jit, from a key: row i of a result depends on the key and
on row i alone, so it is the same on every mesh. With a fixed key a mask is reproducible, which is
how evaluation uses these functions.
"""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.errors import UserError

# BERT's shares of the chosen tokens: shown as the mask token, as a random token; the rest stay.
MASK_SHARE = 0.8
RANDOM_SHARE = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class TokenMasking:
    """How to mask tokens.

    Attributes:
        mask_id: id of the token that stands for a masked one.
        vocab_size: number of token ids.
        special_ids: ids that are never masked and never stand in for another token.
        continues_word: true on the ids of pieces that continue a word.
        rates: probabilities of a token, or of a word, to be chosen; each row of a batch draws one.
        whole_words: whether the pieces of a word are chosen together.
    """

    mask_id: int
    vocab_size: int
    special_ids: tuple[int, ...]
    continues_word: Bool[np.ndarray, " vocab"]
    rates: tuple[float, ...] = (0.15,)
    whole_words: bool = True

    def __post_init__(self) -> None:
        """Checks the rates."""
        if not self.rates:
            raise UserError("masking tokens needs at least one rate: name one")
        for rate in self.rates:
            if not 0.0 < rate <= 1.0:
                raise UserError(f"a rate of masked tokens is {rate}: give one above 0, at most 1")

    @classmethod
    def from_tokenizer(
        cls, tokenizer: Tokenizer, *, rates: tuple[float, ...] = (0.15,), whole_words: bool = True
    ) -> Self:
        """Masking for the vocabulary of a tokenizer, in which "##" continues a word.

        Raises:
            UserError: the tokenizer has no mask token, or words are asked for and it has no "##".
        """
        tokens = tokenizer.tokens
        continues_word = np.array([token.startswith("##") for token in tokens])
        if whole_words and not continues_word.any():
            raise UserError(
                'no token begins with "##", so whole words are unknown: mask single tokens instead'
            )
        no_token = [index for index, token in enumerate(tokens) if not token]
        return cls(
            mask_id=tokenizer.mask_id,
            vocab_size=tokenizer.vocab_size,
            special_ids=(*tokenizer.special_ids, *no_token),
            continues_word=continues_word,
            rates=rates,
            whole_words=whole_words,
        )


def mask_tokens(
    key: PRNGKeyArray,
    token_ids: Int[Array, "batch length"],
    token_mask: Bool[Array, "batch length"],
    masking: TokenMasking,
) -> tuple[Int[Array, "batch length"], Bool[Array, "batch length"]]:
    """Masks tokens as BERT does, Devlin et al., https://arxiv.org/abs/1810.04805, section 3.1.

    A row draws its rate: BERT has one, Mask-Predict (https://arxiv.org/abs/1904.09324) all of them.
    Each token is chosen with that probability; of the chosen, 80 % become the mask token, 10 % a
    token drawn uniformly from the vocabulary, and 10 % stay. With whole words a word is chosen
    with that probability, and then all its pieces are; what becomes of each piece is drawn for
    each by itself, as in the whole-word release of the authors (github.com/google-research/bert).
    They choose a fixed number of tokens a text; a choice of each by itself has the same mean.

    Args:
        key: a new one for every step.
        token_ids: of the vocabulary of `masking`.
        token_mask: false on padding, which is never masked.
        masking: what to mask, and how often.

    Returns:
        The token ids to show, and where the tokens were chosen, to be predicted.
    """
    rate_key, choice_key, action_key, random_key = jax.random.split(key, 4)
    rate = _pick(masking.rates, jax.random.uniform(rate_key, token_ids.shape[:1]))
    chosen = jax.random.uniform(choice_key, token_ids.shape) < rate[:, None]
    if masking.whole_words:
        chosen = jnp.take_along_axis(chosen, _word_starts(token_ids, masking), axis=1)
    is_special = np.isin(np.arange(masking.vocab_size), masking.special_ids)
    chosen &= token_mask & ~jnp.asarray(is_special)[token_ids]
    ordinary_ids = jnp.asarray(np.flatnonzero(~is_special), token_ids.dtype)
    drawn = jax.random.randint(random_key, token_ids.shape, 0, len(ordinary_ids))
    action = jax.random.uniform(action_key, token_ids.shape)
    shown = jnp.where(action < MASK_SHARE + RANDOM_SHARE, ordinary_ids[drawn], token_ids)
    shown = jnp.where(action < MASK_SHARE, masking.mask_id, shown)
    return jnp.where(chosen, shown, token_ids), chosen


def _word_starts(
    token_ids: Int[Array, "batch length"], masking: TokenMasking
) -> Int[Array, "batch length"]:
    """For each token, the place at which its word starts."""
    starts = ~jnp.asarray(masking.continues_word)[token_ids]
    places = jnp.arange(token_ids.shape[1])
    return jax.lax.cummax(jnp.where(starts, places, 0), axis=1)


@dataclasses.dataclass(frozen=True)
class PatchMasking:
    """How to mask patches: at several scales, as Wang et al. do, https://arxiv.org/abs/2103.16022.

    The paper names neither scales nor ratios; with scale 1 alone it is the random masking of MAE,
    He et al., https://arxiv.org/abs/2111.06377.

    Attributes:
        rows: patches from the top to the bottom of an image.
        columns: patches from the left to the right.
        scales: sides of the masked blocks, in patches; each row of a batch draws one.
        ratios: shares of the patches that are masked; each row of a batch draws one.
    """

    rows: int
    columns: int
    scales: tuple[int, ...]
    ratios: tuple[float, ...]

    def __post_init__(self) -> None:
        """Checks that each scale fits, and that each ratio masks some patches, and not all."""
        if not self.scales or not self.ratios:
            raise UserError("masking patches needs at least one scale and one ratio: name some")
        for scale in self.scales:
            if not 1 <= scale <= min(self.rows, self.columns):
                raise UserError(
                    f"blocks of {scale} x {scale} patches do not fit into "
                    f"{self.rows} x {self.columns}: choose another scale"
                )
        for ratio, count in zip(self.ratios, self.num_masked, strict=True):
            if not 0 < count < self.num_patches:
                raise UserError(
                    f"a ratio of {ratio} masks {count} of {self.num_patches} patches: "
                    "choose one that masks some of them and not all"
                )

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return self.rows * self.columns

    @property
    def num_masked(self) -> tuple[int, ...]:
        """The number of masked patches for each ratio."""
        return tuple(round(ratio * self.num_patches) for ratio in self.ratios)

    @property
    def num_visible(self) -> int | None:
        """The number of visible patches if it is the same in all images, else None."""
        counts = set(self.num_masked)
        return self.num_patches - counts.pop() if len(counts) == 1 else None


def mask_patches(
    key: PRNGKeyArray, batch_size: int, masking: PatchMasking
) -> Bool[Array, "batch patches"]:
    """True on the patches to hide, which lie row by row from the top left.

    Each image draws a scale and a ratio, and where the lattice of its blocks begins, so that the
    blocks at its edges may be cut. Blocks are masked in random order until exactly
    round(ratio * patches) patches are; the last block may so be masked in part.

    Args:
        key: a new one for every step.
        batch_size: number of images.
        masking: the grid, the scales and the ratios.
    """
    kind_key, order_key = jax.random.split(key)
    uniform = jax.random.uniform(kind_key, (batch_size, 4))
    scale = _pick(masking.scales, uniform[:, 0])
    num_masked = _pick(masking.num_masked, uniform[:, 1])
    # As many numbers as patches, though larger blocks are fewer.
    block_order = jax.random.uniform(order_key, (batch_size, masking.num_patches))

    def mask_image(
        scale: Int[Array, ""],
        num_masked: Int[Array, ""],
        corner: Float[Array, "2"],
        block_order: Float[Array, " patches"],
    ) -> Bool[Array, " patches"]:
        down, right = jnp.floor(corner * scale).astype(jnp.int32)
        block_row = (jnp.arange(masking.rows) + down) // scale
        block_column = (jnp.arange(masking.columns) + right) // scale
        block = (block_row[:, None] * masking.columns + block_column).ravel()
        # The block itself is the second key, so that blocks of equal order do not mix.
        patches = jnp.lexsort((block, block_order[block]))
        is_masked = jnp.arange(masking.num_patches) < num_masked
        return jnp.zeros(masking.num_patches, bool).at[patches].set(is_masked)

    return jax.vmap(mask_image)(scale, num_masked, uniform[:, 2:], block_order)


def _pick(values: tuple[float, ...], uniform: Float[Array, " batch"]) -> Array:
    """One of the values for each number in [0, 1), all equally likely."""
    return jnp.asarray(values)[jnp.floor(uniform * len(values)).astype(jnp.int32)]


def draw_in_view(key: PRNGKeyArray, batch_size: int, rate: float) -> Bool[Array, " batch"]:
    """True, with probability `rate`, where a row may see its other modality."""
    return jax.random.bernoulli(key, rate, (batch_size,))
