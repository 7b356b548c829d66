"""Decoding, resizing and padding against PIL, NumPy and PyTorch."""

import contextlib
import io
import pathlib

import cv2
import numpy as np
import PIL.Image
import pytest

from medclip_jax.data import images
from medclip_jax.errors import UserError

RANDOM = np.random.default_rng(0)


def smooth_image(height: int, width: int) -> np.ndarray:
    noise = RANDOM.integers(0, 256, (height, width)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX).astype(
        np.uint8
    )


def encode(image: PIL.Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
def test_lossless_files_decode_exactly(file_format: str, tmp_path: pathlib.Path) -> None:
    image = smooth_image(31, 47)
    encoded = encode(PIL.Image.fromarray(image), file_format)
    path = tmp_path / "image"
    path.write_bytes(encoded)
    for source in (encoded, path, str(path), image, image[:, :, None], PIL.Image.fromarray(image)):
        np.testing.assert_array_equal(images.decode_gray(source), image)


def test_jpeg_agrees_with_pil() -> None:
    image = smooth_image(64, 48)
    encoded = images.encode_jpeg(image)
    with PIL.Image.open(io.BytesIO(encoded)) as file:
        assert file.mode == "L"
        expected = np.asarray(file)
    np.testing.assert_allclose(images.decode_gray(encoded).astype(int), expected, atol=1)
    np.testing.assert_allclose(expected.astype(int), image, atol=12)


def test_colour_becomes_luminance() -> None:
    colour = RANDOM.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    expected = np.asarray(PIL.Image.fromarray(colour).convert("L")).astype(int)
    encoded = encode(PIL.Image.fromarray(colour), "PNG")
    for source in (colour, encoded, PIL.Image.fromarray(colour)):
        np.testing.assert_allclose(images.decode_gray(source).astype(int), expected, atol=1)


def test_12_bits_in_16_are_stretched_not_blackened() -> None:
    deep = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    expected = np.round(np.arange(4096) * (255 / 4095)).reshape(64, 64)
    for source in (cv2.imencode(".png", deep)[1].tobytes(), PIL.Image.fromarray(deep)):
        decoded = images.decode_gray(source)
        assert decoded.dtype == np.uint8
        np.testing.assert_allclose(decoded.astype(int), expected, atol=1)


def test_a_constant_16_bit_image_does_not_divide_by_zero() -> None:
    encoded = cv2.imencode(".png", np.full((4, 4), 700, np.uint16))[1].tobytes()
    assert images.decode_gray(encoded).tolist() == [[0] * 4] * 4


def test_exif_orientation_is_applied() -> None:
    image = np.zeros((16, 32), np.uint8)
    image[:, :16] = 255
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    decoded = images.decode_gray(encode(PIL.Image.fromarray(image), "JPEG", exif=exif, quality=95))
    assert decoded.shape == (32, 16)
    assert decoded[:12].min() > 240 and decoded[20:].max() < 15


def test_a_marker_in_a_deep_picture_does_not_darken_it() -> None:
    deep = np.linspace(700, 3900, 64 * 64).astype(np.uint16).reshape(64, 64)
    marked = deep.copy()
    marked[2:6, 2:9] = 65535
    for source in (cv2.imencode(".png", marked)[1].tobytes(), PIL.Image.fromarray(marked)):
        np.testing.assert_array_equal(
            images.decode_gray(source)[8:], images.decode_gray(PIL.Image.fromarray(deep))[8:]
        )
        assert (images.decode_gray(source)[2:6, 2:9] == 255).all()


@pytest.mark.parametrize("scale", [1 / 4095, 255 / 4095, 1.0, -0.5, 1e-12, 1e-30, 1e30])
def test_pictures_of_floats(scale: float) -> None:
    deep = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    floats = (deep * scale - (1000 if scale == 1.0 else 0)).astype(np.float32)
    expected = images.decode_gray(PIL.Image.fromarray(deep)).astype(int)
    expected = expected if scale > 0 else 255 - expected
    encoded = encode(PIL.Image.fromarray(floats), "TIFF")
    for source in (encoded, PIL.Image.fromarray(floats), PIL.Image.open(io.BytesIO(encoded))):
        assert np.abs(images.decode_gray(source) - expected).max() <= 1
    floats[5, 5], floats[6, 6] = np.nan, np.inf
    with_holes = images.decode_gray(encode(PIL.Image.fromarray(floats), "TIFF"))
    assert np.sum(np.abs(with_holes - expected) > 1) <= 2


def test_white_is_zero_at_every_depth() -> None:
    image = smooth_image(31, 47)
    for stored in (image, image.astype(np.uint16) * 16, image.astype(np.float32) / 7):
        encoded = encode(PIL.Image.fromarray(stored), "TIFF", tiffinfo={262: 0})
        # Pillow itself inverts 8-bit pixels when it writes such a file.
        expected = (
            image
            if stored.dtype == np.uint8
            else 255 - images.decode_gray(encode(PIL.Image.fromarray(stored), "TIFF"))
        )
        for source in (encoded, PIL.Image.open(io.BytesIO(encoded))):
            np.testing.assert_array_equal(images.decode_gray(source), expected)


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("turn", [1, 6])
def test_a_pil_image_is_read_as_its_file(mode: str, turn: int) -> None:
    file_format = "PNG" if mode in ("LA", "P", "RGBA") else "TIFF"
    picture = PIL.Image.fromarray(smooth_image(40, 24))
    exif = PIL.Image.Exif()
    exif[0x0112] = turn
    encoded = encode(picture.convert(mode), file_format, exif=exif)
    opened = PIL.Image.open(io.BytesIO(encoded))
    assert opened.mode == mode
    expected = images.decode_gray(encoded)
    assert expected.shape == ((24, 40) if turn == 6 else (40, 24)) and np.ptp(expected) > 200
    difference = np.abs(images.decode_gray(opened).astype(int) - expected)
    assert difference.max() <= 1


def test_a_turned_jpeg_opened_by_pil() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    encoded = encode(PIL.Image.fromarray(smooth_image(40, 24)), "JPEG", exif=exif)
    opened = PIL.Image.open(io.BytesIO(encoded))
    np.testing.assert_array_equal(images.decode_gray(opened), images.decode_gray(encoded))


@pytest.mark.parametrize("name", ["a\0b.png", "a\ud800.png", "a" * 300], ids=ascii)
def test_a_name_that_no_file_can_have(name: str) -> None:
    with pytest.raises(UserError, match="cannot be read") as error:
        images.decode_gray(name)
    assert "\n" not in str(error.value)


def test_arrays_of_every_layout_are_read_alike() -> None:
    image = smooth_image(40, 24)
    colour = np.dstack([image] * 3)
    for array in (
        np.asfortranarray(image),
        np.asfortranarray(colour),
        np.flip(np.flip(image, 0).copy(), 0),
        colour[:, :, ::-1],
        np.repeat(image, 2, axis=1)[:, ::2],
    ):
        np.testing.assert_array_equal(images.decode_gray(array), image)
        images.fit_square(images.decode_gray(array), 32)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64, bool, np.int16, object])
def test_arrays_of_other_types_are_refused(dtype: type) -> None:
    with pytest.raises(UserError, match="^x: an image array must be uint8 .* give the file's path"):
        images.decode_gray(np.ones((4, 4), dtype), "x")


@pytest.mark.parametrize("source", [None, 3, [1, 2], io.BytesIO(b"x"), bytearray(3)])
def test_what_is_no_source_of_an_image_is_refused(source: object) -> None:
    with pytest.raises(UserError, match="^x: an image must be a path, .* not "):
        images.decode_gray(source, "x")  # type: ignore[arg-type]


def test_a_damaged_file_that_pil_has_opened_is_refused() -> None:
    encoded = encode(PIL.Image.fromarray(smooth_image(90, 70)), "PNG")
    with pytest.raises(UserError, match="^x: not a readable image"):
        images.decode_gray(PIL.Image.open(io.BytesIO(encoded[:2000])), "x")


@pytest.mark.parametrize(
    "image",
    ["a.jpg", pathlib.Path("a.jpg"), b"x", PIL.Image.new("L", (9, 9)), None, 3]
    + [np.zeros(shape, np.uint8) for shape in ((9, 8), (9, 8, 1), (9, 8, 3))],
    ids=lambda image: type(image).__name__,
)
def test_a_single_image_is_no_list(image: object) -> None:
    with pytest.raises(UserError, match=r"put a single one into a list: \[image\]"):
        images.as_image_list(image)  # type: ignore[arg-type]


def test_lists_of_images() -> None:
    paths = ["a.jpg", "b.jpg"]
    assert images.as_image_list(paths) is paths
    assert images.as_image_list(path for path in paths) == paths
    assert len(images.as_image_list(np.zeros((5, 9, 8), np.uint8))) == 5


def test_blank_images_are_refused() -> None:
    for level in (0, 128, 255):
        blank = np.full((20, 30), level, np.uint8)
        blank[::2] -= np.uint8(level > 0)  # as JPEG compression leaves it
        with pytest.raises(UserError, match="^x: all pixels are equal or nearly so"):
            images.check_not_blank(blank, "x")
    blank[3, 3] = 9
    images.check_not_blank(blank, "x")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_files_are_refused(file_format: str, kept: float) -> None:
    encoded = encode(PIL.Image.fromarray(smooth_image(90, 70)), file_format)
    with pytest.raises(UserError, match="not a readable image"):
        images.decode_gray(encoded[: int(kept * len(encoded))])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".jp2", ".gif", ".ppm"])
def test_nothing_is_printed_of_damaged_files(
    suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    log_level = cv2.utils.logging.getLogLevel()
    colour = np.dstack([smooth_image(90, 70)] * 3)
    encoded = cv2.imencode(suffix, colour)[1].tobytes()
    changed = bytearray(encoded)
    changed[len(encoded) // 2] ^= 255
    for damaged in (*(encoded[: int(kept * len(encoded))] for kept in (0.3, 0.98)), bytes(changed)):
        with contextlib.suppress(UserError):
            images.decode_gray(damaged)
    assert capfd.readouterr() == ("", "")
    assert cv2.utils.logging.getLogLevel() == log_level


def test_what_is_no_image_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="not a readable image"):
        images.decode_gray(b"patient,finding\n1,2\n")
    with pytest.raises(UserError, match="No such file"):
        images.decode_gray(tmp_path / "missing.png")
    with pytest.raises(UserError, match="uint8"):
        images.decode_gray(np.zeros((4, 4), np.float32))
    for shape in ((4, 4, 4), (4,), (0, 4)):
        with pytest.raises(UserError, match="height, width"):
            images.decode_gray(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("shape", "fitted", "top_left"),
    [((40, 80), (16, 32), (8, 0)), ((80, 40), (32, 16), (0, 8)), ((8, 8), (32, 32), (0, 0))],
)
def test_fit_square_keeps_the_aspect_and_centres(
    shape: tuple[int, int], fitted: tuple[int, int], top_left: tuple[int, int]
) -> None:
    square = images.fit_square(np.full(shape, 200, np.uint8), 32)
    expected = np.zeros((32, 32), np.uint8)
    (top, left), (height, width) = top_left, fitted
    expected[top : top + height, left : left + width] = 200
    np.testing.assert_array_equal(square, expected)


def test_shrinking_much_averages_areas() -> None:
    image = RANDOM.integers(0, 256, (64, 64)).astype(np.uint8)
    blocks = image.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(images.fit_square(image, 16).astype(int), blocks, atol=1)


@pytest.mark.parametrize("size", [40, 90])
def test_shrinking_little_and_enlarging_are_bilinear(size: int) -> None:
    torch = pytest.importorskip("torch")
    image = smooth_image(64, 64)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image).float()[None, None], size=(size, size), mode="bilinear"
    )[0, 0].numpy()
    np.testing.assert_allclose(images.fit_square(image, size).astype(float), expected, atol=1)


def test_resize_short_side_never_enlarges() -> None:
    assert images.resize_short_side(np.zeros((300, 400), np.uint8), 256).shape == (256, 341)
    assert images.resize_short_side(np.zeros((400, 300), np.uint8), 256).shape == (341, 256)
    assert images.resize_short_side(np.zeros((100, 400), np.uint8), 256).shape == (100, 400)


def test_a_line_of_pixels_survives() -> None:
    assert images.fit_square(np.full((1, 500), 9, np.uint8), 32).max() == 9


def _radiograph_like(height: int, width: int) -> np.ndarray:
    """Smooth shades with fine noise on them, as scattered radiation gives."""
    rng = np.random.default_rng(0)
    coarse = cv2.resize(
        rng.uniform(20, 230, (9, 7)), (width, height), interpolation=cv2.INTER_CUBIC
    )
    return np.clip(coarse + rng.normal(0, 6, (height, width)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "shape", [(2500, 2000), (1023, 1411), (1024, 1024), (700, 513), (300, 200)]
)
@pytest.mark.parametrize("quality", [75, 95])
def test_the_short_way_to_a_small_image_is_the_long_way(shape, quality: int) -> None:
    encoded = images.encode_jpeg(_radiograph_like(*shape), quality)
    small, size = images.decode_to_short_side(encoded, 256)
    expected = images.resize_short_side(images.decode_gray(encoded), 256)
    assert size == shape and small.shape == expected.shape
    difference = np.abs(small.astype(int) - expected)
    assert difference.max() <= 2 and difference.mean() < 0.3


def test_the_short_way_heeds_exif_orientation() -> None:
    shape = (1200, 1600)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to show
    buffer = io.BytesIO()
    PIL.Image.fromarray(_radiograph_like(*shape)).save(buffer, "JPEG", exif=exif, quality=95)
    small, size = images.decode_to_short_side(buffer.getvalue(), 200)
    expected = images.resize_short_side(images.decode_gray(buffer.getvalue()), 200)
    assert size == shape[::-1] and small.shape == expected.shape == (267, 200)
    assert np.abs(small.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_sizes_by_the_header(file_format: str) -> None:
    buffer = io.BytesIO()
    PIL.Image.new("L", (31, 17)).save(buffer, file_format)
    assert images.stored_size(buffer.getvalue()) == (17, 31)
    for kept in (0, 1, 2, 5, 20, 30):
        assert images.stored_size(buffer.getvalue()[:kept]) is None
    assert images.stored_size(b"BM" + bytes(60)) is None
