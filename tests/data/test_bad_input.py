"""Images that are damaged or strange: each is read right, or is a row of rejected.csv."""

import csv
import io
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from medclip_jax.data import build, datasets, images

LEVEL = 120


def encoded(image: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def palette() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(half(8)).convert("P").save(buffer, "PNG")
    return buffer.getvalue()


def half(bits: int, height: int = 60, width: int = 80) -> np.ndarray:
    """Black on the left, the largest value on the right, and LEVEL of 255 in the middle third."""
    largest = 2**bits - 1
    image = np.zeros((height, width), np.uint8 if bits == 8 else np.uint16)
    image[:, width // 3 :] = round(LEVEL / 255 * largest)
    image[:, -(width // 3) :] = largest
    return image


def alpha() -> bytes:
    return encoded(np.dstack([half(8)] * 3 + [np.full((60, 80), 9, np.uint8)]))


GOOD = {
    "plain.png": encoded(half(8)),
    "wrong_extension.jpg": encoded(half(8)),
    "no_extension": encoded(half(8), ".jpg"),
    "sixteen_bits.png": encoded(half(16)),
    "twelve_bits.png": encoded(half(12)),
    "colour.png": encoded(np.dstack([half(8)] * 3)),
    "palette.png": palette(),
    "alpha.png": alpha(),
    "wide.png": encoded(half(8, height=16, width=3000)),
}
BAD = {
    "empty.png": (b"", "not a readable image"),
    "truncated.png": (encoded(half(8))[:-100], "not a readable image"),
    "truncated.jpg": (encoded(half(8), ".jpg")[:-100], "not a readable image"),
    "text.png": (b"<html>Please log in</html>", "not a readable image"),
    "black.png": (encoded(0 * half(8)), "all pixels are equal or nearly so"),
    "white.jpg": (encoded(0 * half(8) + 255, ".jpg"), "all pixels are equal or nearly so"),
    "grey_16_bits.png": (encoded(0 * half(16) + 900), "all pixels are equal or nearly so"),
    "one_pixel.png": (encoded(half(8)[:1, :1]), "1 x 1 pixels are no radiograph"),
    "damaged.dcm": (bytes(128) + b"DICM" + bytes(50), "a DICOM file without an image"),
}


def build_from(folder: Path, names: list[str]) -> None:
    rows = "".join(f"{name},{name}\n" for name in names)
    (folder / "manifest.csv").write_text("image_path,study_id\n" + rows)
    build.build_manifest(
        "mine", folder / "manifest.csv", folder, data_dir=folder / "sets", max_rejected=0.5
    )


def test_each_is_read_right_or_listed(tmp_path: Path) -> None:
    for name, content in {**GOOD, **{name: bad[0] for name, bad in BAD.items()}}.items():
        (tmp_path / name).write_bytes(content)
    build_from(tmp_path, [*GOOD, *BAD])
    split = datasets.open_split("manifest/mine", "train", tmp_path / "sets")
    middles = {}
    for study in split:
        image = images.decode_gray(study.images[0])
        middles[study.study_id] = int(
            np.median(image[:, image.shape[1] * 2 // 5 : -image.shape[1] * 2 // 5])
        )
    assert middles.keys() == GOOD.keys()
    assert all(abs(middle - LEVEL) <= 2 for middle in middles.values()), middles
    with (tmp_path / "sets" / "manifest" / "mine" / "rejected.csv").open(newline="") as file:
        rejected = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert rejected.keys() == BAD.keys()
    for name, (_, reason) in BAD.items():
        assert rejected[name].startswith(reason)
        assert "\n" not in rejected[name] and str(tmp_path) not in rejected[name]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_images_of_20000_pixels_a_side(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"huge{suffix}").write_bytes(encoded(half(8, 20_000, 20_000), suffix))
    build_from(tmp_path, [f"huge{suffix}"])
    (study,) = datasets.open_split("manifest/mine", "train", tmp_path / "sets")
    image = images.decode_gray(study.images[0])
    assert image.shape == (256, 256) and abs(int(image[128, 128]) - LEVEL) <= 2
