"""Masks of tokens and patches: rates, exact counts, whole words and blocks, what is spared."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from medclip_jax.data.masking import (
    PatchMasking,
    TokenMasking,
    draw_in_view,
    mask_patches,
    mask_tokens,
)
from medclip_jax.data.tokenizer import load_tokenizer, train_wordpiece
from medclip_jax.errors import UserError

PAD, UNKNOWN, CLASSIFY, SEPARATE, MASK = range(5)
VOCAB_SIZE, FIRST_CONTINUATION = 40, 25
BATCH, LENGTH = 2000, 50
MASKING = TokenMasking(
    mask_id=MASK,
    vocab_size=VOCAB_SIZE,
    special_ids=(PAD, UNKNOWN, CLASSIFY, SEPARATE, MASK),
    continues_word=np.arange(VOCAB_SIZE) >= FIRST_CONTINUATION,
    rates=(0.15,),
)
TOKENS_ONLY = dataclasses.replace(MASKING, whole_words=False)
ROWS, COLUMNS = 7, 9


def make_texts(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Texts of all lengths, with an unknown token here and there, and a padding that lies."""
    generator = np.random.default_rng(seed)
    token_ids = generator.integers(5, VOCAB_SIZE, (BATCH, LENGTH)).astype(np.int32)
    token_ids[generator.random(token_ids.shape) < 0.05] = UNKNOWN
    lengths = generator.integers(2, LENGTH + 1, BATCH)
    token_ids[:, 0] = CLASSIFY
    token_ids[np.arange(BATCH), lengths - 1] = SEPARATE
    # Beyond the mask there may be anything: it is the mask that counts.
    return token_ids, np.arange(LENGTH) < lengths[:, None]


@functools.cache
def masked(masking: TokenMasking) -> tuple[np.ndarray, ...]:
    token_ids, token_mask = make_texts()
    run = jax.jit(functools.partial(mask_tokens, masking=masking))
    shown, chosen = run(jax.random.key(0), token_ids, token_mask)
    return token_ids, token_mask, np.asarray(shown), np.asarray(chosen)


def assert_share(successes: int, trials: int, probability: float) -> None:
    """That a binomial count is within four standard deviations."""
    deviation = np.sqrt(trials * probability * (1 - probability))
    assert trials > 500
    assert abs(successes - trials * probability) < 4 * deviation, successes / trials


@pytest.mark.parametrize("masking", [MASKING, TOKENS_ONLY], ids=["words", "tokens"])
def test_special_tokens_and_padding_are_never_touched(masking):
    token_ids, token_mask, shown, chosen = masked(masking)
    spared = ~token_mask | np.isin(token_ids, masking.special_ids)
    assert spared.sum() > 1000 and not chosen[spared].any()
    np.testing.assert_array_equal(shown[~chosen], token_ids[~chosen])
    assert shown.dtype == np.int32 and chosen.dtype == np.bool_


def test_tokens_are_chosen_at_the_rate_by_themselves():
    token_ids, token_mask, _, chosen = masked(TOKENS_ONLY)
    may = token_mask & ~np.isin(token_ids, MASKING.special_ids)
    assert_share(chosen.sum(), may.sum(), 0.15)
    both = may[:, 1:] & may[:, :-1]
    assert_share((chosen[:, 1:] & chosen[:, :-1])[both].sum(), both.sum(), 0.15**2)


@pytest.mark.parametrize("masking", [MASKING, TOKENS_ONLY], ids=["words", "tokens"])
def test_of_the_chosen_80_10_10_are_masked_drawn_and_kept(masking):
    token_ids, _, shown, chosen = masked(masking)
    before, after = token_ids[chosen], shown[chosen]
    num_ordinary = VOCAB_SIZE - len(masking.special_ids)
    kept_by_chance = 0.1 / num_ordinary  # a drawn token may be the one that was there
    assert_share((after == MASK).sum(), len(after), 0.8)
    assert_share((after == before).sum(), len(after), 0.1 + kept_by_chance)
    drawn = after[(after != MASK) & (after != before)]
    assert not np.isin(drawn, masking.special_ids).any()
    assert set(drawn) == set(range(5, VOCAB_SIZE))
    counts = np.bincount(drawn, minlength=VOCAB_SIZE)[5:]
    expected = len(drawn) / num_ordinary
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 66  # the 99.9 % quantile with 34 degrees of freedom


def split_words(token_ids: np.ndarray) -> list[list[int]]:
    """The places of each word's pieces; a special token is a word as well."""
    words: list[list[int]] = []
    for place, token_id in enumerate(token_ids):
        if token_id < FIRST_CONTINUATION or not words:
            words.append([])
        words[-1].append(place)
    return words


def test_the_pieces_of_a_word_are_chosen_together_at_the_rate():
    token_ids, token_mask, _, chosen = masked(MASKING)
    ordinary = token_mask & ~np.isin(token_ids, MASKING.special_ids)
    outcomes = []
    for ids, may, is_chosen in zip(token_ids, ordinary, chosen, strict=True):
        for word in split_words(ids):
            pieces = {bool(is_chosen[place]) for place in word if may[place]}
            assert len(pieces) <= 1
            outcomes.extend(pieces)
    assert_share(sum(outcomes), len(outcomes), 0.15)
    # Single tokens, in contrast, tear words apart.
    torn = masked(TOKENS_ONLY)[3]
    assert any(
        len({bool(row[place]) for place in word}) == 2
        for ids, row in zip(token_ids, torn, strict=True)
        for word in split_words(ids)
    )


def test_pieces_of_one_word_fare_differently():
    """As in BERT's own release, what is shown is drawn for each piece."""
    token_ids, _, shown, chosen = masked(MASKING)
    continues = chosen[:, 1:] & chosen[:, :-1] & (token_ids[:, 1:] >= FIRST_CONTINUATION)
    first, second = (shown == MASK)[:, :-1][continues], (shown == MASK)[:, 1:][continues]
    assert_share((first & second).sum(), continues.sum(), 0.8**2)


def test_rows_follow_from_the_key_and_themselves_alone():
    token_ids, token_mask, shown, chosen = masked(MASKING)
    few = mask_tokens(jax.random.key(0), token_ids[:3], token_mask[:3], MASKING)
    np.testing.assert_array_equal(few[0], shown[:3])
    np.testing.assert_array_equal(few[1], chosen[:3])
    other = mask_tokens(jax.random.key(1), token_ids[:3], token_mask[:3], MASKING)
    assert not np.array_equal(other[1], few[1])
    same_text = np.repeat(token_ids[:1], 8, axis=0), np.repeat(token_mask[:1], 8, axis=0)
    rows = np.asarray(mask_tokens(jax.random.key(0), *same_text, MASKING)[1])
    assert len(np.unique(rows, axis=0)) > 4


def test_eight_devices_give_the_same_as_one():
    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    patch_masking = PatchMasking(ROWS, COLUMNS, (1, 3), (0.25, 0.5))

    def draw(key, token_ids, token_mask):
        masks = mask_patches(key, BATCH, patch_masking), draw_in_view(key, BATCH, 0.5)
        return *mask_tokens(key, token_ids, token_mask, MASKING), *masks

    token_ids, token_mask = make_texts()
    sharded = jax.jit(draw, out_shardings=rows)(
        jax.random.key(0), *jax.device_put((token_ids, token_mask), rows)
    )
    single = jax.jit(draw)(jax.random.key(0), token_ids, token_mask)
    for ours, expected in zip(sharded, single, strict=True):
        assert len(ours.sharding.device_set) == 8
        np.testing.assert_array_equal(ours, expected)


def test_masking_of_a_trained_tokenizer(tmp_path):
    train_wordpiece(["no pneumothorax", "pneumonia", "no effusion is seen"], 60, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    masking = TokenMasking.from_tokenizer(tokenizer, rates=(0.5,), whole_words=True)
    token_ids, token_mask = tokenizer.encode_batch(["pneumothorax xis"] * 64, 16)
    pieces = tokenizer.tokens
    shown, chosen = mask_tokens(jax.random.key(0), token_ids, token_mask, masking)
    text = [pieces[token_id] for token_id in token_ids[0]]
    words = [place for place, piece in enumerate(text) if piece.isalpha()]
    continues = [place for place, piece in enumerate(text) if piece.startswith("##")]
    assert text[0] == "[CLS]" and len(words) == 2 and continues
    for place in continues:
        start = max(word for word in words if word < place)
        np.testing.assert_array_equal(chosen[:, place], chosen[:, start])
    assert not np.array_equal(chosen[:, words[0]], chosen[:, words[1]])
    replaced = np.asarray(shown)[np.asarray(chosen)]
    assert tokenizer.mask_id in replaced and tokenizer.pad_id not in replaced


def test_ids_without_a_token_are_never_shown(tmp_path):
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "clear": 3, "lungs": 30}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    masking = TokenMasking.from_tokenizer(tokenizer, rates=(0.9,), whole_words=False)
    token_ids = jnp.full((100, 20), 3)
    shown, _ = mask_tokens(jax.random.key(0), token_ids, token_ids > 0, masking)
    assert set(np.unique(shown)) == {2, 3, 30}
    with pytest.raises(UserError, match="whole words are unknown"):
        TokenMasking.from_tokenizer(tokenizer, rates=(0.15,), whole_words=True)


def test_each_row_draws_one_of_the_rates():
    token_ids, token_mask = make_texts()
    masking = dataclasses.replace(TOKENS_ONLY, rates=(0.2, 1.0))
    _, chosen = mask_tokens(jax.random.key(0), token_ids, token_mask, masking)
    ordinary = token_mask & (token_ids > MASK)
    long = ordinary.sum(axis=1) >= 5  # the shorter may be masked whole by the low rate too
    whole = (np.asarray(chosen) == ordinary).all(axis=1) & long
    assert_share(whole.sum(), long.sum(), 0.5)
    partly = np.asarray(chosen)[long & ~whole]
    assert_share(partly.sum(), ordinary[long & ~whole].sum(), 0.2)


@pytest.mark.parametrize("rates", [(0.15, 0.0), (1.1,), (-0.1,)])
def test_impossible_rates_are_refused(rates):
    with pytest.raises(UserError, match="above 0, at most 1"):
        dataclasses.replace(MASKING, rates=rates)


def test_at_least_one_rate_is_needed():
    with pytest.raises(UserError, match="at least one rate"):
        dataclasses.replace(MASKING, rates=())


def draw_patches(batch_size: int, scales: tuple[int, ...], ratios: tuple[float, ...], seed=0):
    masking = PatchMasking(ROWS, COLUMNS, scales, ratios)
    masks = jax.jit(mask_patches, static_argnums=(1, 2))(jax.random.key(seed), batch_size, masking)
    return np.asarray(masks).reshape(batch_size, ROWS, COLUMNS)


def lattices(mask: np.ndarray, scale: int) -> list[tuple[int, int]]:
    """Where a lattice of whole blocks may begin of which at most one is masked in part."""
    found = []
    for down, right in itertools.product(range(scale), repeat=2):
        blocks: dict[tuple[int, int], set[bool]] = {}
        for row, column in np.ndindex(mask.shape):
            block = (row + down) // scale, (column + right) // scale
            blocks.setdefault(block, set()).add(bool(mask[row, column]))
        if sum(len(values) > 1 for values in blocks.values()) <= 1:
            found.append((down, right))
    return found


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_counts_are_exact_and_blocks_are_whole(scale):
    masks = draw_patches(30, (scale,), (0.4,))
    assert (masks.sum(axis=(1, 2)) == round(0.4 * ROWS * COLUMNS)).all()
    found = [lattices(mask, scale) for mask in masks]
    assert all(found)
    if scale > 1:
        certain = [places[0] for places in found if len(places) == 1]
        for begins in zip(*certain, strict=True):
            assert set(begins) == set(range(scale)), "the lattices do not begin everywhere"
        single_patches = draw_patches(30, (1,), (0.4,))
        assert not any(lattices(mask, scale) for mask in single_patches)


def test_scales_and_ratios_are_drawn_for_each_image():
    masks = draw_patches(600, (1, 3), (0.25, 0.5, 0.75))
    counts = masks.sum(axis=(1, 2))
    expected = [round(ratio * ROWS * COLUMNS) for ratio in (0.25, 0.5, 0.75)]
    assert set(counts) == set(expected)
    for count in expected:
        assert_share((counts == count).sum(), 600, 1 / 3)
    in_blocks = np.array([bool(lattices(mask, 3)) for mask in masks])
    assert_share(in_blocks.sum(), 600, 1 / 2)
    assert_share((in_blocks & (counts == expected[0])).sum(), 600, 1 / 6)


@pytest.mark.parametrize("scale", [1, 2])
def test_every_patch_is_masked_as_often(scale):
    shares = draw_patches(3000, (scale,), (0.3,)).mean(axis=0)
    # Of the last block the first patches come first: at most one of some 20 blocks.
    tolerance = 4 * np.sqrt(0.3 * 0.7 / 3000) + (0.05 if scale > 1 else 0.01)
    assert np.abs(shares - 0.3).max() < tolerance


def test_patches_of_a_row_follow_from_the_key_and_the_row():
    masks = draw_patches(6, (1, 2), (0.25, 0.5))
    np.testing.assert_array_equal(draw_patches(2, (1, 2), (0.25, 0.5)), masks[:2])
    assert len(np.unique(masks.reshape(6, -1), axis=0)) == 6
    assert not np.array_equal(draw_patches(6, (1, 2), (0.25, 0.5), seed=1), masks)


def test_the_number_of_visible_patches_is_known_where_it_is_one():
    assert PatchMasking(14, 14, (1,), (0.75,)).num_visible == 49
    assert PatchMasking(2, 3, (1, 2), (0.5, 0.52)).num_visible == 3
    assert PatchMasking(14, 14, (1,), (0.5, 0.75)).num_visible is None


@pytest.mark.parametrize(
    ("scales", "ratios", "message"),
    [
        ((0,), (0.5,), "0 x 0 patches do not fit"),
        ((1, 8), (0.5,), "8 x 8 patches do not fit into 7 x 9"),
        ((1,), (0.5, 1.0), "masks 63 of 63"),
        ((1,), (0.001,), "masks 0 of 63"),
        ((), (0.5,), "at least one scale"),
        ((1,), (), "at least one scale"),
    ],
)
def test_impossible_masks_are_one_clear_line(scales, ratios, message):
    with pytest.raises(UserError, match=message) as error:
        PatchMasking(ROWS, COLUMNS, scales, ratios)
    assert "\n" not in str(error.value)


def test_modalities_are_in_view_at_the_rate():
    in_view = np.asarray(draw_in_view(jax.random.key(0), 2000, 0.3))
    assert in_view.dtype == np.bool_
    assert_share(in_view.sum(), 2000, 0.3)
    assert draw_in_view(jax.random.key(0), 50, 1.0).all()
    assert not draw_in_view(jax.random.key(0), 50, 0.0).any()
