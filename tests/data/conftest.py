"""Small prepared sets whose images and reports tell which study they belong to."""

import csv
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import ml_collections
import pytest
from support.source_tree import grey_image

from medclip_jax.data import build, tokenizer

NUM_STUDIES = 24


class PreparedSet(NamedTuple):
    """A prepared set: study `i` is grey, level `10 * i + 15`, and its report says `i`."""

    data_dir: pathlib.Path
    name: str
    source: pathlib.Path


def _write_csv(path: pathlib.Path, rows: Sequence[Mapping[str, object]]) -> pathlib.Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def write_csv() -> Callable[[pathlib.Path, Sequence[Mapping[str, object]]], pathlib.Path]:
    return _write_csv


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedSet:
    """24 training and 6 validation studies; study 0 has no text, 1 no image, the rest two images.

    The second image of a study is twice as high as wide, the first twice as wide as high.
    """
    root = tmp_path_factory.mktemp("prepared")
    rows = []
    for number in range(NUM_STUDIES + 6):
        level = 10 * (number % NUM_STUDIES) + 15
        text = (
            f"INDICATION: cough {number}.\nFINDINGS: Alpha finding {number} is seen. Beta finding "
            f"{number} is seen. Gone.\nIMPRESSION: Gamma impression {number} is given."
        )
        row = {
            "patient_id": f"patient {number}",
            "study_id": f"study {number}",
            "split": "train" if number < NUM_STUDIES else "validation",
            "text": "" if number == 0 else text,
            "view": "pa",
        }
        for image, shape in enumerate([] if number == 1 else [(40, 80), (80, 40)]):
            path = f"{number}-{image}.png"
            cv2.imwrite(str(root / path), grey_image(level, *shape))
            rows.append(row | {"image_path": path})
        if number == 1:
            rows.append(row | {"image_path": ""})
    manifest = _write_csv(root / "manifest.csv", rows)
    build.build_manifest("small", manifest, root, data_dir=root / "sets")
    return PreparedSet(root / "sets", "manifest/small", root)


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tokenizer.Tokenizer:
    texts = ["alpha beta gamma finding impression is seen given 0 1 2 3 4 5 6 7 8 9 10"] * 5
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer.train_wordpiece([f"{texts[0]} {n}" for n in range(30)] * 2, 500, directory)
    return tokenizer.load_tokenizer(directory)


@pytest.fixture
def data_config(prepared: PreparedSet) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "dataset": prepared.name,
            "mixture": (),
            "data_dir": str(prepared.data_dir),
            "image_size": 32,
            "sections": ("findings", "impression"),
            "text": "sentence",
            "remove_priors": False,
            "labels": (),
            "num_threads": 2,
            "prefetch": 2,
        }
    )
