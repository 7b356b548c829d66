"""Downloads in archives: complete or not at all, and never outside their folder."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from medclip_jax.data.builders.archives import find, unpack
from medclip_jax.errors import UserError


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members.items():
                file.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as file:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path


CONTENT = {f"folder/{number}.png": bytes(range(256)) * 50 for number in range(20)}


@pytest.mark.parametrize("name", ["a.zip", "a.tgz", "a.tar.gz"])
def test_an_archive_is_unpacked_once(tmp_path: Path, name: str) -> None:
    archive = write_archive(tmp_path / name, CONTENT)
    folder = unpack(archive, tmp_path / "into")
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.png")}
    assert found == CONTENT
    archive.unlink()
    assert unpack(archive, tmp_path / "into") == folder


@pytest.mark.parametrize("name", ["a.zip", "a.tgz"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_an_archive_that_is_cut_short_leaves_nothing(tmp_path: Path, name: str, share) -> None:
    archive = write_archive(tmp_path / name, CONTENT)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: round(share * len(whole))])
    with pytest.raises(UserError, match=f"{name}: damaged or cut short; download it ag") as error:
        unpack(archive, tmp_path / "into")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "into").iterdir()) == []
    archive.write_bytes(whole)
    assert len(list(unpack(archive, tmp_path / "into").rglob("*.png"))) == 20


@pytest.mark.parametrize("name", ["a.zip", "a.tgz"])
def test_members_stay_inside(tmp_path: Path, name: str) -> None:
    archive = write_archive(tmp_path / name, {"../outside.txt": b"x", "/absolute.txt": b"y"})
    try:
        unpack(archive, tmp_path / "into")
    except UserError as error:
        assert "damaged" in str(error)
    assert not (tmp_path / "outside.txt").exists() and not (tmp_path / "into/outside.txt").exists()
    assert not Path("/absolute.txt").exists()


def test_a_folder_or_its_archive(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert find(tmp_path, ["i.zip", "images"], "images", tmp_path / "into") == tmp_path / "images"
    write_archive(tmp_path / "i.zip", CONTENT)
    assert find(tmp_path, ["i.zip", "images"], "images", tmp_path / "x").parent == tmp_path / "x"
    with pytest.raises(UserError, match="no reports; one of these is needed: r.zip, r$"):
        find(tmp_path, ["r.zip", "r"], "reports", tmp_path / "into")
