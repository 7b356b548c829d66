"""`medclip-jax embed`: nothing that was computed is lost, and nothing is left out in silence."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import tiny

import medclip_jax
from medclip_jax.cli import main
from medclip_jax.convert.formats import safetensors_format
from medclip_jax.embed import image_paths
from medclip_jax.errors import UserError
from medclip_jax.inference import Encoder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of an untrained encoder."""
    workdir = tmp_path_factory.mktemp("embed")
    tokens = tiny.tokenizer(tmp_path_factory.mktemp("tokens"))
    encoder = Encoder(tiny.tiny_config("convirt"), tokens, {})
    safetensors_format.write(encoder.randomly_initialized(), workdir)
    return workdir


@pytest.fixture(scope="module")
def encoder(workdir: Path) -> Encoder:
    return medclip_jax.load(workdir)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """99 good images and a broken one in their midst."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(100):
        path = tmp_path / "images" / f"{index:03}.png"
        cv2.imwrite(str(path), rng.integers(0, 255, (20, 16), np.uint8))
    (tmp_path / "images" / "042.png").write_bytes(b"\x89PNG broken")
    return tmp_path


def embed(workdir: Path, output: Path, *arguments: str) -> None:
    main(["embed", "--checkpoint", str(workdir), "--output", str(output), *arguments])


def rejected(folder: Path) -> list[dict[str, str]]:
    with (folder / "out.rejected.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_broken_image_of_a_hundred(
    workdir: Path, encoder: Encoder, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(workdir, folder / "out.npz", "--images", str(folder / "images" / "*.png"))
    good = [str(p) for p in sorted((folder / "images").iterdir()) if p.name != "042.png"]
    written = np.load(folder / "out.npz")
    assert written["source"].tolist() == good
    np.testing.assert_allclose(written["embedding"], encoder.embed_images(good), atol=1e-6)
    broken = str(folder / "images" / "042.png")
    reason = "not a readable image (empty, damaged or of an unknown format)"
    assert rejected(folder) == [{"row": "43", "path": broken, "reason": reason}]
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"99 embeddings of size 8 in {folder / 'out.npz'}",
        f"1 of 100 images was left out: {broken}: {reason}; see {folder / 'out.rejected.csv'}",
    ]
    # The next call has nothing to reject.
    embed(workdir, folder / "out.npz", "--images", str(folder / "images" / "00*.png"))
    assert rejected(folder) == []


def test_more_than_allowed_is_an_error_that_loses_nothing(
    workdir: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(folder / "images" / "007.png"), np.full((20, 16), 90, np.uint8))
    (folder / "images" / "008.png").write_bytes(b"")
    pattern = str(folder / "images" / "*.png")
    with pytest.raises(SystemExit) as stopped:
        embed(workdir, folder / "out.parquet", "--images", pattern)
    assert stopped.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "3 of 100 images were left out, 2 of them: not a readable image" in said
    assert "3.0%, more than the 1.0% allowed (--max-rejected)" in said
    assert [row["row"] for row in rejected(folder)] == ["8", "9", "43"]
    assert rejected(folder)[0]["reason"].startswith("all pixels are equal")
    import pyarrow.parquet

    assert pyarrow.parquet.read_table(folder / "out.parquet").num_rows == 97
    embed(workdir, folder / "out.npz", "--images", pattern, "--max-rejected", "0.03")


def test_nothing_readable_at_all(workdir: Path, folder: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        embed(workdir, folder / "out.npz", "--images", str(folder / "images" / "042.png"))
    assert stopped.value.code == 2
    assert not (folder / "out.npz").exists() and len(rejected(folder)) == 1


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("images", "must end in .npz or .parquet"),
        ("images/folder.npz", "is a folder; name a file"),
        ("images/000.png/out.npz", "cannot be written"),
    ],
)
def test_the_output_is_tried_first(
    folder: Path, output: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "images" / "folder.npz").mkdir()
    with pytest.raises(SystemExit) as stopped:
        # There is no such checkpoint, which would be said next.
        embed(folder / "none", folder / output, "--images", str(folder / "images" / "*.png"))
    assert stopped.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert message in said


def test_a_share_is_a_share(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        embed(folder, folder / "x.npz", "--images", str(folder / "*"), "--max-rejected", "5")
    assert "from 0 to 1, not 5.0" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_tables_in_several_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "Bilder.CSV"
    text = "image_path,name\nröntgen/1.png,Müller\n,no image\n/data/2.png,x\nröntgen/1.png,again\n"
    path.write_bytes(text.encode(encoding))
    again = str(tmp_path / "röntgen/1.png")
    assert image_paths(str(path)) == [again, "/data/2.png", again]


def test_tables_without_images(tmp_path: Path) -> None:
    for content, message in (
        (b"image_path,x\n", "no rows"),
        (b"image_path,x\n,1\n", "no row has an image_path"),
        (b"path,x\na.png,1\n", "no column image_path; its columns are: path, x"),
        (b"", "no column image_path"),
    ):
        (tmp_path / "images.csv").write_bytes(content)
        with pytest.raises(UserError, match=message):
            image_paths(str(tmp_path / "images.csv"))


def test_no_file_but_its_own_is_touched(workdir: Path, folder: Path) -> None:
    mine = folder / "rejected.csv"
    mine.write_text("mine")
    embed(workdir, folder / "out.npz", "--images", str(folder / "images" / "00*.png"))
    embed(workdir, folder / "out.npz", "--images", str(folder / "images" / "*.png"))
    assert mine.read_text() == "mine" and len(rejected(folder)) == 1


def test_a_row_that_cannot_be_read_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "images.jsonl"
    table.write_text('{"image_path": "a.png"}\nnonsense\n{"image_path": ""}\n')
    assert image_paths(str(table)) == [str(tmp_path / "a.png")]
    said = capsys.readouterr().out.splitlines()
    assert f"1 rows of {table} cannot be read, the first is row 2: not JSON" in said[0]
    assert said[1:] == [f"1 rows of {table} name no image"]
    table.write_text('{"image_path": ""}\n[]\n')
    with pytest.raises(UserError, match="the first is row 2: not a JSON object"):
        image_paths(str(table))


def test_an_empty_pattern_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        embed(tmp_path, tmp_path / "out.npz", "--images", "")
    assert "--images is empty" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_texts_in_several_encodings(workdir: Path, tmp_path: Path, encoding: str) -> None:
    lines = ["Derrame pequeño à gauche.", "", "  normal ", "normal"]
    (tmp_path / "texts.txt").write_bytes("\r\n".join(lines).encode(encoding))
    embed(workdir, tmp_path / "out.npz", "--texts", str(tmp_path / "texts.txt"))
    assert np.load(tmp_path / "out.npz")["source"].tolist() == [lines[0], "normal", "normal"]
    assert not (tmp_path / "out.rejected.csv").exists()


def test_texts_that_are_none(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    for path, message in (
        (tmp_path, "cannot be read"),
        (tmp_path / "none.txt", "cannot be read"),
        (tmp_path / "empty.txt", "no texts"),
    ):
        with pytest.raises(SystemExit):
            embed(workdir, tmp_path / "out.npz", "--texts", str(path))
        assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("image", ["a.jpg", Path("a.jpg"), np.zeros((20, 20), np.uint8)])
def test_a_single_image_is_no_list(encoder: Encoder, image: object) -> None:
    methods = (encoder.embed_images, encoder.image_features, encoder.view)
    calls = [lambda method=method: method(image) for method in methods]
    calls += [lambda: encoder.zero_shot(image, {"a": (["x"], ["y"])})]
    for call in calls:
        with pytest.raises(UserError, match="images must be a list of images"):
            call()


def test_blank_and_unreadable_images_are_named(encoder: Encoder, folder: Path) -> None:
    good = str(folder / "images" / "000.png")
    for image, message in (
        (np.full((20, 16), 7, np.uint8), r"images\[1\]: all pixels are equal"),
        (np.zeros((20, 16), np.uint16), r"images\[1\]: an image array must be uint8"),
        (b"nothing", r"images\[1\]: not a readable image"),
        (str(folder / "images" / "042.png"), "042.png: not a readable image"),
    ):
        with pytest.raises(UserError, match=message):
            encoder.embed_images([good, image])


@pytest.mark.parametrize("text", [None, float("nan"), 3, "\ud800"])
def test_a_text_that_is_none_is_said(encoder: Encoder, text: object) -> None:
    with pytest.raises(UserError, match=r"must be a string|half a character"):
        encoder.embed_texts(["normal", text])


def test_batches_are_no_larger_than_what_there_is(encoder: Encoder) -> None:
    texts = [f"text {number}" for number in range(3)]
    huge = encoder.embed_texts(texts, batch_size=10**9)
    np.testing.assert_array_equal(huge, encoder.embed_texts(texts))
    for wrong in (0, -1):
        with pytest.raises(UserError, match=f"batch_size is {wrong}; give 1 or above"):
            encoder.embed_texts(texts, batch_size=wrong)
