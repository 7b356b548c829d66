"""Reading on Apache Beam gives the set that reading in threads gives."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from medclip_jax.data import build, datasets
from medclip_jax.errors import UserError

HAS_BEAM = importlib.util.find_spec("apache_beam") is not None


@pytest.fixture
def source(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (30, 64, 64)).astype(np.uint8)
    for number, pixels in enumerate(noise):
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
    (tmp_path / "bad.png").write_bytes(b"no image")
    rows = [f"{number}.png,{'test' if number % 3 else 'train'}\n" for number in range(30)]
    rows += ["bad.png,train\n", "missing.png,train\n"]
    (tmp_path / "m.csv").write_text("".join(["image_path,split\n", *rows]))
    return tmp_path


def build_named(source: Path, name: str, **options: object) -> str:
    return build.build_manifest(
        name, source / "m.csv", source, data_dir=source / "sets", max_rejected=0.1, **options
    )


@pytest.mark.skipif(not HAS_BEAM, reason="Apache Beam is not installed")
def test_the_same_set(source: Path) -> None:
    build_named(source, "threads")
    message = build_named(source, "beam", beam_runner="DirectRunner")
    assert "2 rows were rejected" in message
    for split in ("train", "test"):
        one, other = (
            list(datasets.open_split(f"manifest/{name}", split, source / "sets"))
            for name in ("threads", "beam")
        )
        key = [(study.study_id, study.images) for study in one]
        assert key == [(study.study_id, study.images) for study in other]
    rejected = [
        (source / "sets" / "manifest" / name / "rejected.csv").read_text()
        for name in ("threads", "beam")
    ]
    assert rejected[0] == rejected[1] and rejected[0].count("\n") == 3


@pytest.mark.skipif(not HAS_BEAM, reason="Apache Beam is not installed")
def test_an_unknown_runner(source: Path) -> None:
    with pytest.raises(UserError, match="--beam-runner NoRunner: "):
        build_named(source, "beam", beam_runner="NoRunner")


@pytest.mark.skipif(HAS_BEAM, reason="Apache Beam is installed")
def test_without_beam(source: Path) -> None:
    with pytest.raises(UserError, match="pip install apache-beam"):
        build_named(source, "beam", beam_runner="DirectRunner")
