"""Output: its place is tried before the work, and it is whole at the end."""

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medclip_jax.errors import UserError
from medclip_jax.output_files import check_file, check_folder, write_whole


def test_a_place_is_made_and_left_clean(tmp_path: Path) -> None:
    check_file(tmp_path / "a" / "b" / "out.npz")
    assert not list((tmp_path / "a" / "b").iterdir())


def test_places_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.npz").mkdir()
    for path, message in (
        (tmp_path / "folder.npz", "is a folder; name a file"),
        (tmp_path / "file" / "out.npz", "cannot be written"),
        (Path("/proc/out.npz"), "cannot be written"),
        (tmp_path / f"{'x' * 300}.npz", "cannot be written .File name too long"),
    ):
        with pytest.raises(UserError, match=message):
            check_file(path)


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file can grow beyond 10 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    write_whole(path, lambda file: np.savez(file, a=np.zeros(10)))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"out.npz cannot be written \(File too large\)"):
        write_whole(path, lambda file: np.savez(file, a=np.zeros(10_000)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_where_it_can_be_written(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b", "--output")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    check_folder(tmp_path / "there", "--output")
    assert list((tmp_path / "there").iterdir()) == []


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"--output .*file.* cannot be written"):
            check_folder(folder, "--output")
    assert (tmp_path / "file").read_text() == "mine"


def test_where_nobody_can_write() -> None:
    with pytest.raises(UserError, match="--output /proc/none cannot be written"):
        check_folder(Path("/proc/none"), "--output")
