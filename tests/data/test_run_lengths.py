"""Run lengths against a loop over pixels, and back from masks."""

import hypothesis
import hypothesis.extra.numpy
import numpy as np
import pytest
from hypothesis import strategies as st

from medclip_jax.data.run_lengths import decode_run_lengths
from medclip_jax.errors import UserError

sizes = st.integers(1, 12)
masks = hypothesis.extra.numpy.arrays(bool, st.tuples(sizes, sizes))


def decode_pixel_by_pixel(runs: str, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    pixel = 0
    for number, word in enumerate(runs.split()):
        for _ in range(int(word)):
            mask[pixel % height, pixel // height] = number % 2 == 1
            pixel += 1
    return mask


def encode(mask: np.ndarray) -> str:
    """Pairs "gap length", the gap from the end of the run before."""
    words, inside, count = [], False, 0
    for column in range(mask.shape[1]):
        for row in range(mask.shape[0]):
            if mask[row, column] != inside:
                words.append(count)
                inside, count = not inside, 0
            count += 1
    if inside:
        words.append(count)
    return " ".join(map(str, words))


@hypothesis.given(masks)
def test_decoding_undoes_encoding(mask: np.ndarray) -> None:
    decoded = decode_run_lengths(encode(mask), *mask.shape)
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, mask)


@hypothesis.given(sizes, sizes, st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20))))
def test_any_pairs_agree_with_a_loop_over_pixels(height, width, pairs) -> None:
    runs = " ".join(f"{gap} {length}" for gap, length in pairs)
    if sum(map(sum, pairs)) > height * width:
        with pytest.raises(UserError, match="leave the image"):
            decode_run_lengths(runs, height, width)
    else:
        decoded = decode_run_lengths(runs, height, width)
        np.testing.assert_array_equal(decoded, decode_pixel_by_pixel(runs, height, width))


@hypothesis.given(st.text(alphabet="0123456789 -+._,eE\t\nab٣²", max_size=40))
def test_any_text_is_a_mask_or_one_line_of_error(runs: str) -> None:
    try:
        mask = decode_run_lengths(runs, 8, 5)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert mask.shape == (8, 5)


def test_pixels_count_down_the_columns() -> None:
    # The third and fourth pixel of the first column, and the first of the second.
    expected = np.zeros((4, 3), bool)
    expected[2:4, 0] = expected[0, 1] = True
    np.testing.assert_array_equal(decode_run_lengths("2 3", 4, 3), expected)


def test_gaps_count_from_the_run_before() -> None:
    mask = decode_run_lengths("1 1 2 1", 8, 1)
    assert np.flatnonzero(mask).tolist() == [1, 4]


def test_the_whole_image_and_none_of_it() -> None:
    assert decode_run_lengths("0 12", 4, 3).all()
    assert not decode_run_lengths("", 4, 3).any()


@pytest.mark.parametrize(
    "runs", ["-1", "3", "1 2 3", "1 -2", "1.5 2", "one two", "13 0", "0 13", "5 5 5 5"]
)
def test_what_is_no_run_lengths_is_an_error(runs: str) -> None:
    with pytest.raises(UserError):
        decode_run_lengths(runs, 4, 3)


@pytest.mark.parametrize(
    "runs", ["9" * 30 + " 1", "1 " + "9" * 30, "9" * 5000 + " 1", f"{2**62} {2**62} {2**62} 5"]
)
def test_numbers_too_large_for_a_computer_word_are_an_error(runs: str) -> None:
    with pytest.raises(UserError, match="leave the image"):
        decode_run_lengths(runs, 4, 3)
