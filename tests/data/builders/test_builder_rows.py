"""What every builder's rows pass through: splits by hash, repeated images, files that are there."""

from pathlib import Path

import numpy as np
import pytest

from medclip_jax.data.builders.rows import Row, checked_source, hash_split
from medclip_jax.errors import UserError


def row(number: int, path: str, patient: str = "p", split: str = "train", **fields: str) -> Row:
    return Row(number, split, patient, "s", path, **fields)


def test_splits_by_hash_have_their_shares_and_depend_on_the_key_alone() -> None:
    keys = [f"patient {number}" for number in range(20_000)]
    splits = [hash_split(key, validation=0.1, test=0.2) for key in keys]
    shares = {name: np.mean([s == name for s in splits]) for name in ("validation", "test")}
    # Four standard deviations of a share of 20,000 draws.
    assert shares["validation"] == pytest.approx(0.1, abs=0.009)
    assert shares["test"] == pytest.approx(0.2, abs=0.012)
    assert splits[::-1] == [hash_split(key, validation=0.1, test=0.2) for key in keys[::-1]]
    # Whoever is for validation stays so where there is no test split.
    assert [s == "validation" for s in splits] == [
        hash_split(key, validation=0.1) == "validation" for key in keys
    ]


def test_what_cannot_be_used_is_listed(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    for name in ("root/a.png", "outside.png"):
        (tmp_path / name).touch()
    rows = [
        row(2, "a.png"),
        row(3, "a.png", patient="other"),
        row(4, "b.png"),
        row(5, "../outside.png"),
        row(6, ""),
        row(7, "", text="A text."),
        row(8, "", text_path="none.txt"),
    ]
    source = checked_source(tmp_path / "root", rows)
    assert [[r.number for r in study] for study in source.studies] == [[2, 7]]
    assert sorted(source.rejected) == [
        (3, "a.png", "the image is listed already, in row 2"),
        (4, "b.png", "no such file"),
        (5, "../outside.png", "the path leaves the image root"),
        (6, "", "no image and no text"),
        (8, "none.txt", "no such file"),
    ]
    assert source.num_rows == 7


def test_texts_alone(tmp_path: Path) -> None:
    rows = [row(2, "none.png", text="A text."), row(3, "none.png")]
    source = checked_source(tmp_path, rows, with_images=False)
    assert [[(r.number, r.image_path) for r in study] for study in source.studies] == [[(2, "")]]


def test_a_patient_in_two_splits(tmp_path: Path) -> None:
    rows = [row(2, "", text="x"), row(3, "", split="test_5x200", text="x")]
    with pytest.raises(UserError, match="patient 'p' is in train and test_5x200; give each"):
        checked_source(tmp_path, rows)
