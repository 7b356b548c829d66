"""Whether a folder can be written to: known before the work, and nothing is left there."""

from pathlib import Path

import pytest

from medclip_jax.errors import UserError
from medclip_jax.writable import check_folder


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
