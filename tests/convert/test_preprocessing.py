"""The preprocessing that an export carries, against our pipeline with OpenCV and JAX."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import tiny

from medclip_jax.convert.preprocessor import write_preprocessing
from medclip_jax.convert.pytorch_files import preprocessing
from medclip_jax.convert.pytorch_files.preprocessing import Preprocessing
from medclip_jax.data import images
from medclip_jax.data.augment import Augmentation, prepare
from medclip_jax.inference import Encoder

RANDOM = np.random.default_rng(0)
COLOUR = cv2.resize(RANDOM.integers(0, 256, (9, 11, 3), np.uint8), (61, 53))
DEEP = RANDOM.integers(100, 3000, (31, 41)).astype(np.uint16)
MARKED = DEEP.copy()
MARKED[3:6, 5:9] = 65535
DEEP_PICTURE = PIL.Image.fromarray(DEEP)
# In an interpreter that has NumPy and Pillow only.
ALONE = """
import sys
for name in ("cv2", "torch", "jax", "transformers", "medclip_jax"):
    sys.modules[name] = None
import numpy as np
from preprocessing import Preprocessing
np.save("alone.npy", Preprocessing.from_file("preprocessor_config.json")(["image.jpg"]))
"""


def encode(image: np.ndarray, file_format: str, mode: str | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = PIL.Image.fromarray(image)
    (picture.convert(mode) if mode else picture).save(buffer, file_format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> PIL.Image.Exif:
    tags = PIL.Image.Exif()
    tags[0x112] = orientation
    return tags


def picture(height: int, width: int, kind: str) -> np.ndarray:
    generator = np.random.default_rng(height * 10_000 + width)
    if kind == "edges":
        return generator.integers(0, 2, (height, width), np.uint8) * np.uint8(255)
    if kind == "noise":
        return generator.integers(0, 256, (height, width), np.uint8)
    return np.add.outer(np.arange(height), 2 * np.arange(width)).astype(np.uint8)


def difference(ours: np.ndarray, theirs: np.ndarray) -> int:
    """The largest, in grey levels."""
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.uint8
    return int(np.abs(ours.astype(int) - theirs).max())


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.integers(1, 12), st.integers(1, 700)),
    st.one_of(st.integers(1, 12), st.integers(1, 700)),
    st.sampled_from([16, 64, 91, 256]),
    st.sampled_from(["noise", "edges", "slope"]),
)
@example(1, 1, 64, "noise")
@example(1, 5000, 64, "edges")
@example(5000, 1, 91, "noise")
@example(3000, 2571, 256, "noise")
@example(64, 64, 64, "noise")
def test_squares_are_within_a_grey_level(height: int, width: int, size: int, kind: str) -> None:
    image = picture(height, width, kind)
    assert difference(images.fit_square(image, size), preprocessing.fit_square(image, size)) <= 1


@pytest.mark.parametrize("size", [64, 91, 256])
@pytest.mark.parametrize("offset", [-3, -2, -1, 0, 1, 2, 3])
def test_scales_beside_a_half(size: int, offset: int) -> None:
    """There our pipeline goes over from interpolation to averages."""
    for other in (1, 2, size // 3, 2 * size - 5):
        for shape in ((2 * size + offset, other), (other, 2 * size + offset)):
            image = picture(*shape, "edges")
            ours = images.fit_square(image, size)
            assert difference(ours, preprocessing.fit_square(image, size)) <= 1


@pytest.mark.parametrize("height", [90, 190, 400, 1200])
def test_images_are_not_brighter_or_darker_as_a_whole(height: int) -> None:
    image = picture(height, 7 * height // 8, "noise")
    ours, theirs = images.fit_square(image, 128), preprocessing.fit_square(image, 128)
    # Where OpenCV cuts and where it rounds differs from processor to processor, by 0.12.
    assert abs(ours.mean() - theirs.mean()) < 0.2


@pytest.mark.parametrize("sizes", [(256, 224), (92, 80), (64, 64), (91, 30), (33, 56), (20, 1)])
def test_views_of_the_same_square_are_equal(sizes: tuple[int, int]) -> None:
    image_size, crop_size = sizes
    image = picture(image_size, image_size, "edges")
    ours = prepare(jnp.asarray(image[None]), Augmentation(crop_size=crop_size))[..., 0]
    theirs = Preprocessing(image_size, crop_size, 0.5, 0.25)(image)
    assert theirs.shape == (1, 1, crop_size, crop_size) and theirs.dtype == np.float32
    # JAX places the filter in float32, which costs some thousandths of a grey level.
    np.testing.assert_allclose(theirs[:, 0], ours, atol=0.01 / (255 * 0.25))


GRAY = {
    "jpeg": encode(COLOUR, "JPEG", "L"),
    "jpeg of colour": encode(COLOUR, "JPEG"),
    "jpeg of whole colour": encode(COLOUR, "JPEG", subsampling=0, quality=60),
    "progressive jpeg": encode(COLOUR, "JPEG", progressive=True),
    "jpeg of RGB": encode(COLOUR, "JPEG", keep_rgb=True),
    **{f"turned jpeg {turn}": encode(COLOUR, "JPEG", exif=exif(turn)) for turn in range(1, 9)},
    **{f"turned png {turn}": encode(DEEP, "PNG", exif=exif(turn)) for turn in (3, 6)},
    **{f"turned tiff {turn}": encode(COLOUR, "TIFF", "L", exif=exif(turn)) for turn in (3, 6)},
    **{f"png {mode}": encode(COLOUR, "PNG", mode) for mode in ("L", "RGB", "RGBA", "LA", "P", "1")},
    **{f"tiff {mode}": encode(COLOUR, "TIFF", mode) for mode in ("L", "RGB", "P", "1")},
    **{name: encode(COLOUR, name) for name in ("BMP", "GIF", "JPEG2000", "PPM")},
    "16-bit png": encode(DEEP, "PNG"),
    "16-bit tiff": encode(DEEP, "TIFF"),
    "16-bit constant": encode(np.full((5, 7), 700, np.uint16), "PNG"),
    "tiff of floats": encode(RANDOM.normal(size=(9, 8)).astype(np.float32), "TIFF"),
    "array": COLOUR[..., 0],
    "array with a channel": COLOUR[..., :1],
    "array of colour": COLOUR,
    "pil": PIL.Image.fromarray(COLOUR),
    "deep pil": DEEP_PICTURE,
    "16-bit with a marker": encode(MARKED, "PNG"),
    "tiff of floats with NaN": encode(np.where(DEEP > 2990, np.nan, DEEP / 4095.0), "TIFF", "F"),
    "white is zero": encode(DEEP, "TIFF", tiffinfo={262: 0}),
    "white is zero pil": PIL.Image.open(io.BytesIO(encode(DEEP, "TIFF", tiffinfo={262: 0}))),
    "float pil": PIL.Image.fromarray(DEEP.astype(np.float32)),
    **{f"pil {mode}": PIL.Image.fromarray(COLOUR).convert(mode) for mode in ("P", "LA", "CMYK")},
    **{
        f"tiff of floats times {scale}": encode((DEEP * scale).astype(np.float32), "TIFF")
        for scale in (1e-30, 1e-12, 1e30)
    },
    "turned pil": PIL.Image.open(io.BytesIO(encode(COLOUR, "JPEG", exif=exif(6)))),
}


@pytest.mark.parametrize("name", GRAY)
def test_images_of_all_kinds_are_read_alike(name: str, tmp_path: Path) -> None:
    source = GRAY[name]
    ours = images.decode_gray(source)
    assert difference(ours, preprocessing.decode_gray(source)) <= 1
    if isinstance(source, bytes):
        path = tmp_path / "image"
        path.write_bytes(source)
        for named in (path, str(path)):
            np.testing.assert_array_equal(
                preprocessing.decode_gray(named), preprocessing.decode_gray(source)
            )


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("image", [COLOUR[..., 0], DEEP], ids=["8 bits", "16 bits"])
def test_a_turned_tiff_file_opened_by_its_name(
    turn: int, image: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "turned.tif"
    path.write_bytes(encode(image, "TIFF", tiffinfo={274: turn}))
    ours = images.decode_gray(path)
    for source in (path, PIL.Image.open(path)):
        assert difference(ours, preprocessing.decode_gray(source)) <= 1


DEEP_COLOUR = {
    suffix: cv2.imencode(suffix, np.dstack([DEEP] * 3))[1].tobytes()
    for suffix in (".png", ".tif", ".ppm")
}
SIGNED = cv2.imencode(".tif", np.eye(9, dtype=np.int8))[1].tobytes()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/missing/image.png", "/missing/image.png: cannot be read"),
        (b"", "encoded image: not a readable image"),
        (b"no image", "encoded image: not a readable image"),
        (encode(COLOUR, "PNG")[:700], "encoded image: not a readable image"),
        (encode(COLOUR, "JPEG")[:700], "encoded image: not a readable image"),
        (bytes(128) + b"DICM", "DICOM is not read here: convert it"),
        *((source, "16-bit colour") for source in DEEP_COLOUR.values()),
        *((PIL.Image.open(io.BytesIO(x)), "16-bit colour") for x in DEEP_COLOUR.values()),
        (SIGNED, "signed 8-bit"),
        (PIL.Image.open(io.BytesIO(SIGNED)), "signed 8-bit"),
        (PIL.Image.open(io.BytesIO(encode(COLOUR, "PNG")[:700])), "image: not a readable image"),
        *((PIL.Image.new(mode, (0, 5)), "no pixels") for mode in ("L", "RGB", "F", "I;16")),
        ("a\0b.png", "cannot be read"),
        ("a\ud800.png", "cannot be read"),
        ([None], "an image must be a path, .* not NoneType"),
        ([bytearray(9)], "an image must be a path, .* not bytearray"),
        (np.zeros((3, 3)), "must be uint8 from 0 to 255, not float64"),
        (GRAY["16-bit constant"], "image: all pixels are equal"),
        (np.full((9, 9, 3), 200, np.uint8), "image: all pixels are equal"),
        (np.zeros((3, 3, 4), np.uint8), r"not \[3, 3, 4\]"),
        (np.zeros((0, 3), np.uint8), r"not \[0, 3\]"),
    ],
)
def test_what_is_no_image(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Preprocessing(32, 32, 0.5, 0.25)(source)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    changes = {"augmentation.mean": 0.4, "augmentation.std": 0.3, "data.image_size": 72}
    tokens = tiny.tokenizer(tmp_path_factory.mktemp("tokens"))
    return Encoder(tiny.tiny_config("convirt", **changes), tokens, {})


def in_grey_levels(encoder: Encoder, sources: list, pixel_values: np.ndarray) -> float:
    """How far the values are from the encoder's own."""
    expected = np.asarray(encoder.prepare(encoder.read_images(sources)))[..., 0]
    assert (len(sources), *expected.shape[1:]) == (len(pixel_values), *pixel_values.shape[2:])
    return float(np.abs(expected[:, None] - pixel_values).max()) * 255 * 0.3


def test_an_export_prepares_images_as_the_encoder_does(encoder: Encoder, tmp_path: Path) -> None:
    write_preprocessing(encoder, tmp_path, huggingface=False)
    assert {path.name for path in tmp_path.iterdir()} == {
        "preprocessor_config.json",
        "preprocessing.py",
    }
    ours = Preprocessing.from_file(tmp_path / "preprocessor_config.json")
    assert ours == Preprocessing(72, tiny.SIZE, 0.4, 0.3, 1)
    sources = [source for name, source in GRAY.items() if name != "16-bit constant"]
    pixel_values = ours(sources)
    assert pixel_values.shape == (len(sources), 1, tiny.SIZE, tiny.SIZE)
    assert in_grey_levels(encoder, sources, pixel_values) < 1.001
    np.testing.assert_array_equal(ours(sources[0]), pixel_values[:1])
    assert ours([]).shape == (0, 1, tiny.SIZE, tiny.SIZE)


def test_channels_repeat_the_image(encoder: Encoder, tmp_path: Path) -> None:
    write_preprocessing(encoder, tmp_path, huggingface=False, channels=3)
    three = Preprocessing.from_file(tmp_path / "preprocessor_config.json")(COLOUR)
    assert three.shape == (1, 3, tiny.SIZE, tiny.SIZE)
    np.testing.assert_array_equal(three, np.repeat(three[:, :1], 3, axis=1))
    assert in_grey_levels(encoder, [COLOUR], three) < 1.001


def test_the_files_need_numpy_and_pillow_only(encoder: Encoder, tmp_path: Path) -> None:
    write_preprocessing(encoder, tmp_path, huggingface=True)
    (tmp_path / "image.jpg").write_bytes(GRAY["jpeg of colour"])
    subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, check=True)
    expected = Preprocessing.from_file(tmp_path / "preprocessor_config.json")
    np.testing.assert_array_equal(np.load(tmp_path / "alone.npy"), expected(GRAY["jpeg of colour"]))


@pytest.mark.usefixtures("code_cache")
def test_transformers_loads_and_saves_the_processor(
    transformers: Any, encoder: Encoder, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    write_preprocessing(encoder, first, huggingface=True, channels=3)
    expected = Preprocessing.from_file(first / "preprocessor_config.json")([COLOUR, DEEP_PICTURE])

    def load(directory: Path) -> Any:
        return transformers.AutoImageProcessor.from_pretrained(directory, trust_remote_code=True)

    processor = load(first)
    processor.save_pretrained(second)
    assert {path.name for path in second.iterdir()} == {path.name for path in first.iterdir()}
    configs = [json.loads((d / "preprocessor_config.json").read_text()) for d in (first, second)]
    assert configs[0] == configs[1]
    for loaded in (processor, load(second)):
        assert type(loaded).__name__ == "MedClipImageProcessor"
        assert loaded.model_input_names == ["pixel_values"]
        tensors = loaded([COLOUR, DEEP_PICTURE], return_tensors="pt")["pixel_values"]
        assert tensors.dtype == torch.float32
        np.testing.assert_array_equal(tensors.numpy(), expected)
    assert loaded(COLOUR, return_tensors="np")["pixel_values"].shape == (1, *expected.shape[1:])
    np.testing.assert_array_equal(loaded(COLOUR)["pixel_values"], expected[:1])
