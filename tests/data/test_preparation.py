"""Builds that are interrupted, run twice at once, or have nowhere to write."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from medclip_jax.data import build, datasets, preparation
from medclip_jax.data.builders import row_builder
from medclip_jax.data.builders.study_reader import StoredImage, store_image
from medclip_jax.errors import UserError

NUM_IMAGES = 60
BUILD = """
import sys
from medclip_jax.data import build
build.build_manifest("mine", sys.argv[1] + "/m.csv", sys.argv[1], data_dir=sys.argv[2])
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A manifest `m.csv` of images of noise, which take about 60 kB each."""
    folder = tmp_path / "source"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 256, 256)).astype(np.uint8)
    for number, pixels in enumerate(noise):
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
    rows = "".join(f"{number}.png\n" for number in range(NUM_IMAGES))
    (folder / "m.csv").write_text("image_path\n" + rows)
    return folder


def build_mine(source: Path, data_dir: Path) -> str:
    return build.build_manifest("mine", source / "m.csv", source, data_dir=data_dir)


def records(data_dir: Path) -> list[bytes]:
    split = datasets.open_split("manifest/mine", "train", data_dir)
    return [study.images[0] for study in split]


class Interrupting:
    """`store_image`, counted, and interrupted at one of the calls."""

    def __init__(self, at: int | None = None) -> None:
        self.num_calls = 0
        self._at = at

    def __call__(self, path: Path, image_size: int) -> StoredImage:
        self.num_calls += 1
        if self.num_calls == self._at:
            raise KeyboardInterrupt
        return store_image(path, image_size)


def test_an_interrupted_build_goes_on(source, tmp_path, monkeypatch) -> None:
    sets = tmp_path / "sets"
    monkeypatch.setattr(row_builder, "store_image", Interrupting(at=41))
    with pytest.raises(KeyboardInterrupt):
        build_mine(source, sets)
    with pytest.raises(UserError, match="not prepared"):
        records(sets)
    again = Interrupting()
    monkeypatch.setattr(row_builder, "store_image", again)
    build_mine(source, sets)
    assert 0 < again.num_calls <= NUM_IMAGES - 40
    build_mine(source, tmp_path / "at once")
    assert records(sets) == records(tmp_path / "at once")
    assert not list((sets / "manifest" / "mine").glob("unfinished*"))


def test_a_changed_image_is_read_again(source, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(row_builder, "store_image", Interrupting(at=NUM_IMAGES))
    with pytest.raises(KeyboardInterrupt):
        build_mine(source, tmp_path / "sets")
    white = np.full((256, 256), 255, np.uint8)
    white[:8] = 0
    cv2.imwrite(str(source / "0.png"), white)
    monkeypatch.undo()
    build_mine(source, tmp_path / "sets")
    means = [cv2.imdecode(np.frombuffer(r, np.uint8), 0).mean() for r in records(tmp_path / "sets")]
    assert sum(mean > 240 for mean in means) == 1


def test_a_killed_build_leaves_no_set_and_goes_on(source, tmp_path) -> None:
    sets = tmp_path / "sets"
    folder = sets / "manifest" / "mine"
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(source), str(sets)], stderr=subprocess.DEVNULL
    )
    while not list(folder.glob("incomplete*")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(folder.glob("incomplete*"))
    with pytest.raises(UserError, match="not prepared"):
        records(sets)
    build_mine(source, sets)
    assert len(records(sets)) == NUM_IMAGES
    assert not list(folder.glob("incomplete*"))


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000])
def test_a_damaged_file_of_an_unfinished_build_is_no_hindrance(source, tmp_path, content) -> None:
    folder = tmp_path / "sets" / "manifest" / "mine"
    folder.mkdir(parents=True)
    (folder / "unfinished.sqlite").write_bytes(content)
    build_mine(source, tmp_path / "sets")
    assert len(records(tmp_path / "sets")) == NUM_IMAGES


def test_two_builds_of_a_set_do_not_meet(source, tmp_path, monkeypatch) -> None:
    messages = []

    def meanwhile(path: Path, image_size: int) -> StoredImage:
        if not messages:
            with pytest.raises(UserError) as other:
                build_mine(source, tmp_path / "sets")
            messages.append(str(other.value))
        return store_image(path, image_size)

    monkeypatch.setattr(row_builder, "store_image", meanwhile)
    build_mine(source, tmp_path / "sets")
    assert "another build of this set is running" in messages[0]


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)],
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# Where it is full while images are read, and while the set is written.
@pytest.mark.parametrize("kilobytes", [600, 7500])
def test_a_full_disk_is_one_line(source, tmp_path, kilobytes: int) -> None:
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        with pytest.raises(UserError, match=r"full|no space.*run the same command again") as error:
            build_mine(source, disk)
        assert "\n" not in str(error.value)
        with pytest.raises(UserError, match="not prepared"):
            records(disk)


def test_a_folder_without_permission_is_one_line(source, tmp_path) -> None:
    sets = tmp_path / "sets"
    sets.mkdir()
    sets.chmod(0o555)
    is_root = os.geteuid() == 0
    try:
        if is_root:  # whom no permission holds back
            for folder in (tmp_path, *tmp_path.parents):
                if folder.stat().st_uid == 0 and folder.is_relative_to("/tmp"):
                    folder.chmod(folder.stat().st_mode | 0o055)
            os.seteuid(65534)
        with pytest.raises(UserError, match="Permission denied; mend that"):
            build_mine(source, sets)
    finally:
        if is_root:
            os.seteuid(0)


def test_counts_are_compared_with_the_published() -> None:
    lines = preparation.compare_counts({"images": 506, "studies": 5}, {"images": 112120})
    assert lines == ["images: 506 found, 111,614 fewer than the 112,120 published"]
    assert preparation.compare_counts({"images": 3}, {"images": 3}) == []


def test_what_the_cache_gives_is_what_was_stored(source, tmp_path) -> None:
    from medclip_jax.data.builders.image_cache import ImageCache

    path = source / "0.png"
    cache = ImageCache(tmp_path / "cache.sqlite", store_image)
    first = cache(path, 128)
    cache.close()

    def never(path: Path, image_size: int) -> StoredImage:
        raise AssertionError("read again")

    again = ImageCache(tmp_path / "cache.sqlite", never)
    assert again(path, 128) == first == store_image(path, 128)
    with pytest.raises(AssertionError, match="read again"):
        again(path, 64)
    again.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "cache.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM images").fetchone() == (1,)


def test_paths_with_odd_characters(source, tmp_path) -> None:
    sets = tmp_path / "a ?#%20 ü"
    build_mine(source, sets)
    assert len(records(sets)) == NUM_IMAGES
    assert {path.name for path in sets.parent.iterdir()} == {"source", sets.name}
