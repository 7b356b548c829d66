"""Generation of texts from images, token by token: greedy, beam search, nucleus sampling.

All of it is a pure function of arrays, for a batch at once; it stops when every text has ended. The
model is two functions, such as `CaptionDecoder.start` and `CaptionDecoder.step` with parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from medclip_jax.errors import UserError

METHODS = ("greedy", "beam", "nucleus")

Cache = Any
# Maps (image_grid, max_length) to a cache, a tree of arrays whose first axis is the batch.
StartFn = Callable[[Float[Array, "batch cells channels"], int], Cache]
# Maps (cache, token ids at a position, position) to the logits of the next position and a cache.
StepFn = Callable[
    [Cache, Int[Array, " batch"], Int[Array, ""]], tuple[Float[Array, "batch vocabulary"], Cache]
]


class SpecialTokens(NamedTuple):
    """The ids of the tokens that begin a text, end it and fill the row behind it."""

    start: int
    end: int
    pad: int


def generate(
    start: StartFn,
    step: StepFn,
    image_grid: Float[Array, "batch cells channels"],
    *,
    max_length: int,
    start_id: int,
    end_id: int,
    pad_id: int,
    method: str = "greedy",
    num_beams: int = 4,
    length_penalty: float = 1.0,
    top_p: float = 0.9,
    key: Key[Array, ""] | None = None,
) -> Int[Array, "batch max_length"]:
    """Writes a text for each image.

    Args:
        start: maps (image_grid, max_length) to a cache, a tree of arrays whose first axis is the
            batch.
        step: maps (cache, token_ids [B], position) to (logits [B, V], cache).
        image_grid: the patches or spatial cells of each image.
        max_length: of the texts in tokens, special ones included.
        start_id: the first token of each text.
        end_id: the token that ends a text.
        pad_id: the token that fills the row behind it.
        method: `greedy` takes the likeliest token each time; `beam` is Hugging Face's beam search;
            `nucleus` samples as Holtzman et al., https://arxiv.org/abs/1904.09751.
        num_beams: running texts of beam search. It returns the text that ends with the highest
            score, and one that has not ended only if none has.
        length_penalty: the score is `sum(log p) / length**length_penalty`; the length counts the
            end token and not the start token.
        top_p: nucleus sampling draws from the likeliest tokens that together have this probability.
        key: of nucleus sampling.

    Returns:
        The tokens, `start_id` first, then those of the text and `end_id`, unless the text was cut
        at `max_length`, then `pad_id`.

    Raises:
        UserError: an option is impossible.
    """
    _check_options(method, max_length, num_beams, top_p, key)
    special = SpecialTokens(start_id, end_id, pad_id)
    if method == "beam":
        return _search(start, step, image_grid, max_length, special, num_beams, length_penalty)

    def choose(
        logits: Float[Array, "batch vocabulary"], position: Int[Array, ""]
    ) -> Int[Array, " batch"]:
        if key is None or method == "greedy":
            return jnp.argmax(logits, axis=-1)
        return sample_nucleus(jax.random.fold_in(key, position), logits, top_p)

    return _extend_until_end(start, step, image_grid, max_length, special, choose)


def sample_nucleus(
    key: Key[Array, ""], logits: Float[Array, "batch vocabulary"], top_p: float
) -> Int[Array, " batch"]:
    """Draws from the smallest set of likeliest tokens whose probability is at least `top_p`."""
    order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
    logits = jnp.take_along_axis(logits, order, axis=-1)
    probabilities = jax.nn.softmax(logits)
    likelier = jnp.cumsum(probabilities, axis=-1) - probabilities
    is_in_nucleus = likelier < top_p
    place = jax.random.categorical(key, jnp.where(is_in_nucleus, logits, -jnp.inf))
    return jnp.take_along_axis(order, place[:, None], axis=-1)[:, 0]


def _check_options(
    method: str, max_length: int, num_beams: int, top_p: float, key: Key[Array, ""] | None
) -> None:
    if method not in METHODS:
        raise UserError(f"method is {method!r}: give one of {', '.join(METHODS)}")
    if max_length < 2:
        raise UserError(f"max_length is {max_length}: give 2 or more, for the start and end tokens")
    if method == "beam" and num_beams < 1:
        raise UserError(f"num_beams is {num_beams}: give 1 or more")
    if method == "nucleus" and not 0 < top_p <= 1:
        raise UserError(f"top_p is {top_p}: give a number above 0 and at most 1")
    if method == "nucleus" and key is None:
        raise UserError("nucleus sampling draws at random: give it a key")


class _Texts(NamedTuple):
    position: Int[Array, ""]
    token_ids: Int[Array, "batch max_length"]
    has_ended: Bool[Array, " batch"]
    cache: Cache


def _extend_until_end(
    start: StartFn,
    step: StepFn,
    image_grid: Float[Array, "batch cells channels"],
    max_length: int,
    special: SpecialTokens,
    choose: Callable[[Float[Array, "batch vocabulary"], Int[Array, ""]], Int[Array, " batch"]],
) -> Int[Array, "batch max_length"]:
    """Extends each text by the token that `choose` takes, until it is the end."""
    batch = image_grid.shape[0]

    def is_unfinished(texts: _Texts) -> Bool[Array, ""]:
        return (texts.position < max_length - 1) & ~texts.has_ended.all()

    def extend(texts: _Texts) -> _Texts:
        position = texts.position
        logits, cache = step(texts.cache, texts.token_ids[:, position], position)
        chosen = jnp.where(texts.has_ended, special.pad, choose(logits, position))
        return _Texts(
            position + 1,
            texts.token_ids.at[:, position + 1].set(chosen),
            texts.has_ended | (chosen == special.end),
            cache,
        )

    texts = _Texts(
        jnp.int32(0),
        _first_tokens((batch, max_length), special),
        jnp.zeros(batch, bool),
        start(image_grid, max_length),
    )
    return jax.lax.while_loop(is_unfinished, extend, texts).token_ids


class _Beams(NamedTuple):
    """Running texts, best first, and what is kept of those that have ended.

    Of ended texts only the best can be the result; of the others the scores tell when to stop.
    """

    position: Int[Array, ""]
    token_ids: Int[Array, "batch beams max_length"]
    log_probabilities: Float[Array, "batch beams"]
    best_ended: Int[Array, "batch max_length"]
    ended_scores: Float[Array, "batch beams"]
    is_open: Bool[Array, " batch"]
    cache: Cache


def _search(
    start: StartFn,
    step: StepFn,
    image_grid: Float[Array, "batch cells channels"],
    max_length: int,
    special: SpecialTokens,
    num_beams: int,
    length_penalty: float,
) -> Int[Array, "batch max_length"]:
    """Beam search; the cache has `num_beams` rows an image, next to one another."""
    batch = image_grid.shape[0]

    def is_unfinished(beams: _Beams) -> Bool[Array, ""]:
        return (beams.position < max_length - 1) & beams.is_open.any()

    def extend(beams: _Beams) -> _Beams:
        last = beams.token_ids[:, :, beams.position].reshape(-1)
        logits, cache = step(beams.cache, last, beams.position)
        log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
        log_probabilities = log_probabilities.reshape(batch, num_beams, -1)
        return _extend_beams(
            beams._replace(cache=cache), log_probabilities, special.end, length_penalty
        )

    cache = start(image_grid, max_length)
    nothing = jnp.full((batch, num_beams), -jnp.inf)
    beams = _Beams(
        jnp.int32(0),
        _first_tokens((batch, num_beams, max_length), special),
        # At first the beams of an image are the same text: one of them is enough.
        nothing.at[:, 0].set(0.0),
        _first_tokens((batch, max_length), special),
        nothing,
        jnp.ones(batch, bool),
        jax.tree.map(lambda leaf: jnp.repeat(leaf, num_beams, axis=0), cache),
    )
    beams = jax.lax.while_loop(is_unfinished, extend, beams)
    any_ended = beams.ended_scores[:, :1] > -jnp.inf
    return jnp.where(any_ended, beams.best_ended, beams.token_ids[:, 0])


def _extend_beams(
    beams: _Beams,
    log_probabilities: Float[Array, "batch beams vocabulary"],
    end_id: int,
    length_penalty: float,
) -> _Beams:
    """Puts the best extensions in the beams' place, and those that end among the ended.

    An image is closed, as in Hugging Face, when `num_beams` of its texts have ended and the best
    running one, at its present length, scores below them all.
    """
    batch, num_beams, vocab_size = log_probabilities.shape
    totals = log_probabilities + beams.log_probabilities[:, :, None]
    # Each beam ends in one way, so that among twice as many at least `num_beams` run on.
    totals, flat = jax.lax.top_k(totals.reshape(batch, -1), 2 * num_beams)
    parents, tokens = flat // vocab_size, flat % vocab_size
    position = beams.position + 1
    normalizer = position.astype(jnp.float32) ** length_penalty

    def extended(
        chosen: Int[Array, "batch chosen"],
    ) -> tuple[Int[Array, "batch chosen"], Int[Array, "batch chosen max_length"]]:
        chosen_parents = _take(parents, chosen)
        texts = _take(beams.token_ids, chosen_parents)
        return chosen_parents, texts.at[:, :, position].set(_take(tokens, chosen))

    # Only the best `num_beams` may end: one that would not run on is too unlikely to end.
    may_end = (tokens == end_id) & (jnp.arange(2 * num_beams) < num_beams) & beams.is_open[:, None]
    new_scores = jnp.where(may_end, totals / normalizer, -jnp.inf)
    _, best_new = extended(jnp.argmax(new_scores, axis=1, keepdims=True))
    is_better = new_scores.max(axis=1) > beams.ended_scores[:, 0]
    ended_scores = jnp.concatenate([beams.ended_scores, new_scores], axis=1)
    ended_scores, _ = jax.lax.top_k(ended_scores, num_beams)
    running, chosen = jax.lax.top_k(jnp.where(tokens == end_id, -jnp.inf, totals), num_beams)
    chosen_parents, token_ids = extended(chosen)
    return _Beams(
        position,
        token_ids,
        running,
        jnp.where(is_better[:, None], best_new[:, 0], beams.best_ended),
        ended_scores,
        beams.is_open & (running[:, 0] / normalizer > ended_scores[:, -1]),
        jax.tree.map(lambda leaf: _reorder(leaf, chosen_parents), beams.cache),
    )


def _reorder(
    leaf: Float[Array, "rows *shape"], parents: Int[Array, "batch beams"]
) -> Float[Array, "rows *shape"]:
    """Gives each beam its parent's row of the cache."""
    return _take(leaf.reshape(*parents.shape, *leaf.shape[1:]), parents).reshape(leaf.shape)


def _take(
    values: Int[Array, "batch beams *shape"], index: Int[Array, "batch chosen"]
) -> Int[Array, "batch chosen *shape"]:
    """Takes from each image's values those at its indices."""
    return jax.vmap(lambda row, row_index: row[row_index])(values, index)


def _first_tokens(shape: tuple[int, ...], special: SpecialTokens) -> Int[Array, "*shape"]:
    """Rows that begin with the start token and hold nothing else."""
    return jnp.full(shape, special.pad, jnp.int32).at[..., 0].set(special.start)
