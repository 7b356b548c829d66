"""Which values of a deep picture are shown, and that strays do not darken the rest."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from support.real_data import real

from medclip_jax.data.grey_levels import shown_range, stretch


def radiograph(bits: int = 12, height: int = 200, width: int = 180) -> np.ndarray:
    """Smooth shades over most of the range, with fine noise, and not one value at either end."""
    rng = np.random.default_rng(0)
    size = (width, height)
    shades = cv2.resize(rng.uniform(0.2, 0.9, (9, 7)), size, interpolation=cv2.INTER_LINEAR)
    noise = rng.normal(0, 0.01, (height, width))
    return np.round((shades + noise) * (2**bits - 1)).astype(np.uint16)


def letter(picture: np.ndarray) -> None:
    picture[10:40, 10:16] = 65535
    picture[34:40, 10:30] = 65535


def blurred_letter(picture: np.ndarray) -> None:
    """Its edges take all values between the tissue's and the marker's."""
    mask = np.zeros(picture.shape, np.float32)
    mask[10:40, 10:16] = mask[34:40, 10:30] = 1
    mask = cv2.GaussianBlur(mask, (0, 0), 0.5)
    picture[:] = np.round(picture * (1 - mask) + 65535 * mask)


def hot_pixel(picture: np.ndarray) -> None:
    picture[100, 90] = 65535


def hot_pixels(picture: np.ndarray) -> None:
    for number in range(20):
        picture[9 * number, 7 * number] = 20_000 + 2_000 * number


def border(picture: np.ndarray) -> None:
    picture[:5], picture[-5:], picture[:, :5], picture[:, -5:] = [65535] * 4


STRAYS = (letter, blurred_letter, hot_pixel, hot_pixels, border)


@pytest.mark.parametrize(
    ("add", "bits"),
    # At 14 bits the edges of a blurred letter are too close to the tissue to be told from it.
    [(a, b) for a in STRAYS for b in (8, 10, 12, 14) if (a, b) != (blurred_letter, 14)],
)
def test_strays_above_do_not_count(add: Callable[[np.ndarray], None], bits: int) -> None:
    clean = radiograph(bits)
    picture = clean.copy()
    add(picture)
    low, high = shown_range(picture)
    assert low == picture.min()
    # Where nothing lies between tissue and marker the ends are found exactly.
    if add is not blurred_letter:
        assert high == picture[picture <= clean.max()].max()
    found = stretch(picture, (low, high))[picture == clean].astype(int)
    expected = stretch(clean, shown_range(clean))[picture == clean]
    assert abs(np.median(found) - np.median(expected)) <= (30 if add is blurred_letter else 2)


@pytest.mark.parametrize("add", STRAYS)
def test_strays_below_do_not_count(add: Callable[[np.ndarray], None]) -> None:
    picture = radiograph()
    add(picture)
    low, high = shown_range(-picture.astype(np.int32))
    assert (-high, -low) == shown_range(picture)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_ordinary_pictures_are_shown_whole(bits: int) -> None:
    picture = radiograph(bits)
    assert shown_range(picture) == (picture.min(), picture.max())
    picture[:, :60] = 0  # as a shutter leaves it
    assert shown_range(picture) == (0, picture.max())


def test_a_small_bright_part_that_is_not_alone_is_kept() -> None:
    """A hand on a large dark plate fills the range, though it has few of the pixels."""
    picture = np.random.default_rng(0).integers(0, 100, (400, 400)).astype(np.uint16)
    picture[180:240, 180:240] = np.linspace(100, 4095, 3600).reshape(60, 60)
    assert shown_range(picture) == (picture.min(), 4095)


def test_a_sparse_tail_without_a_gap_is_kept() -> None:
    """Air beside the patient, in a corner: few pixels, but of all values."""
    picture = radiograph(14)
    picture[:20, :30] = np.linspace(14_000, 65_535, 600).reshape(20, 30)
    assert shown_range(picture) == (picture.min(), 65_535)


def test_pictures_of_few_values_are_shown_whole() -> None:
    picture = np.zeros((50, 60), np.uint16)
    picture[20:30, 20:30] = 65535
    assert shown_range(picture) == (0, 65535)
    assert shown_range(np.full((5, 5), 700, np.uint16)) == (700, 700)


def test_values_that_are_not_finite_do_not_count() -> None:
    picture = radiograph().astype(np.float32)
    expected = stretch(picture, shown_range(picture))
    picture[0, :3] = np.nan, np.inf, -np.inf
    found = stretch(picture, shown_range(picture))
    np.testing.assert_array_equal(found.ravel()[3:], expected.ravel()[3:])
    assert found[0, :3].tolist() == [0, 255, 0]
    nothing = np.full((4, 4), np.nan)
    assert not stretch(nothing, shown_range(nothing)).any()


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e-9, 1e300])
@pytest.mark.filterwarnings("error")
def test_any_width_of_the_range_is_stretched(scale: float) -> None:
    picture = radiograph().astype(np.float64)
    found = stretch(picture * scale, shown_range(picture * scale)).astype(int)
    assert np.abs(found - stretch(picture, shown_range(picture))).max() <= 1


@pytest.mark.parametrize("kind", [np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.filterwarnings("error")
def test_equal_values_are_black(kind: type) -> None:
    picture = np.full((4, 5), 7, kind)
    assert not stretch(picture, shown_range(picture)).any()
    if kind is not np.uint16:
        picture[0, 0] = np.inf
        assert stretch(picture, shown_range(picture)).ravel().tolist() == [255] + [0] * 19


@pytest.mark.parametrize("factor", [16, 257])
def test_no_real_radiograph_has_strays(factor: int) -> None:
    paths = sorted(real("nih_chestxray14/images").glob("*.png"))[::5]
    for path in paths:
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.uint16) * factor
        assert shown_range(picture) == (picture.min(), picture.max()), path.name
