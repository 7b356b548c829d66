"""Output files: tried before the work, whole at its end."""

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medclip_jax.errors import UserError
from medclip_jax.whole_file import check_writable, write_whole


def test_a_place_is_made_and_left_clean(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b" / "out.npz")
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
            check_writable(path)


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
