"""From rows to a study: boxes and masks in the frame of the stored image, what is left out."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from support.source_tree import read_level, write_image

from medclip_jax.data import images
from medclip_jax.data.builders.rows import PixelBox, Row, RunLengthMask
from medclip_jax.data.builders.study_reader import StudyReader

# Rows 100 to 199 of columns 300 to 399 in an image of 400 x 800 pixels (height x width).
RUNS = f"{300 * 400 + 100} 100" + " 300 100" * 99
SHAPE = (400, 800)


def row(path: str = "", **fields: object) -> Row:
    return Row(2, "train", "p", "s", path, **{"labels": (1.0,), **fields})


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("image_size", [100, 1000])
def test_boxes_and_masks_fit_the_stored_image(tmp_path: Path, scale: int, image_size: int) -> None:
    write_image(tmp_path / "a.png", 100, SHAPE[0] // scale, SHAPE[1] // scale)
    box = PixelBox(0, (100, 300, 200, 400), SHAPE)
    mask = RunLengthMask(0, (RUNS,), SHAPE)
    study, rejected = StudyReader(tmp_path, image_size)([row("a.png", boxes=(box,), masks=(mask,))])
    assert rejected == [] and study is not None
    assert study.boxes[0].box == pytest.approx((0.25, 0.375, 0.5, 0.5))
    pixels = images.decode_gray(study.masks[0].png)
    height, width = images.decode_gray(study.images[0]).shape
    assert pixels.shape == (height, width) and set(np.unique(pixels)) == {0, 255}
    inside = np.zeros((height, width), bool)
    inside[
        round(height * 0.25) : round(height * 0.5), round(width * 0.375) : round(width * 0.5)
    ] = True
    assert np.mean((pixels > 0) != inside) < 2 / min(height, width)


def test_without_a_shape_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 100, *SHAPE)
    boxes = (PixelBox(0, (0, 200, 400, 400)), PixelBox(0, (-9, 700, 450, 900)))
    fields = {"boxes": boxes, "masks": (RunLengthMask(0, (RUNS,)),)}
    study, _ = StudyReader(tmp_path, 100)([row("a.png", **fields)])
    assert study is not None
    assert [b.box for b in study.boxes] == [(0.0, 0.25, 1.0, 0.5), (0.0, 0.875, 1.0, 1.0)]
    assert np.mean(images.decode_gray(study.masks[0].png) > 0) == pytest.approx(1 / 32, rel=0.1)


def test_parts_of_a_mask_are_one(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 100, 40, 40)
    mask = RunLengthMask(0, ("0 400", "1200 400"))
    study, _ = StudyReader(tmp_path, 256)([row("a.png", masks=(mask,))])
    assert study is not None and len(study.masks) == 1
    columns = (images.decode_gray(study.masks[0].png) > 0).mean(axis=0)
    np.testing.assert_array_equal(columns, [1] * 10 + [0] * 20 + [1] * 10)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (RunLengthMask(0, ("5 7",), (1024, 1024)), "800 x 400 pixels, but the mask is for 1024 x"),
        (RunLengthMask(0, ("5 7 1",)), "run lengths that are not pairs"),
        (RunLengthMask(0, ("5 999999",)), "run lengths that leave the image"),
    ],
)
def test_masks_that_do_not_fit_reject_the_row(tmp_path: Path, mask, reason: str) -> None:
    write_image(tmp_path / "a.png", 100, *SHAPE)
    study, (rejection,) = StudyReader(tmp_path, 256)([row("a.png", masks=(mask,))])
    assert study is None and rejection[:2] == (2, "a.png")
    assert rejection.reason.startswith(reason)


def test_boxes_follow_their_image_where_another_is_left_out(tmp_path: Path) -> None:
    write_image(tmp_path / "b.png", 100, 100, 100)
    boxes = (PixelBox(0, (10, 10, 50, 50)),)
    study, rejected = StudyReader(tmp_path, 256)(
        [row("missing.png", boxes=boxes), row("b.png", boxes=boxes, view="PA")]
    )
    assert study is not None and len(rejected) == 1
    assert [box.image for box in study.boxes] == [0] and list(study.views) == ["PA"]
    assert abs(read_level(study.images[0]) - 100) <= 2


def test_reports_are_read_from_files_and_cut_to_sections(tmp_path: Path) -> None:
    report = "INDICATION: Cough.\nFINDINGS: Clear – as before.\nIMPRESSION: Nothing."
    (tmp_path / "utf8.txt").write_text(report, encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(report.replace("–", "é").encode("latin-1"))
    rows = [row(text_path=name) for name in ("utf8.txt", "latin.txt", "none.txt")]
    study, (rejection,) = StudyReader(tmp_path, 256, ("findings",))(rows)
    assert study is not None
    assert study.report == "Clear – as before.\n\nClear é as before."
    assert rejection == (2, "none.txt", "cannot be read (No such file or directory)")


def test_a_reader_travels_to_another_process(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 77, 64, 64)
    reader, rows = pickle.loads(pickle.dumps((StudyReader(tmp_path, 256), [row("a.png")])))
    study, _ = reader(rows)
    assert abs(read_level(study.images[0]) - 77) <= 2
