"""Data that teaches an objective nothing is refused at the start, and every usable set is not."""

import csv
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict
from support import tiny

from medclip_jax.data.build import build_manifest
from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.errors import UserError
from medclip_jax.train.usable_data import check_training_data, nothing_to_learn

A, B = "Small left effusion.", "Large right pneumothorax."
# Sets of studies (image, text, label).
SETS = {
    "sound": [(1, A, "x"), (1, B, "y"), (1, A, "x"), (1, B, "")],
    "no_images": [(0, A, "x"), (0, B, "y")],
    "no_texts": [(1, "", "x"), (1, "", "y")],
    "no_pairs": [(1, "", "x"), (0, A, "x"), (0, B, "y")],
    "one_pair": [(1, A, "x"), (1, "", "y"), (0, B, "")],
    "one_text": [(1, A, "x"), (1, A.upper(), "y"), (1, A.replace(".", ""), "")],
    "one_label": [(1, A, "x"), (1, B, "x"), (0, A, "y")],
    "no_label": [(1, A, ""), (1, B, "")],
}
COMPARED = ("contrastive", "sigmoid_contrastive", "multi_view_contrastive", "local_contrastive")
PAIR, ONE, SAME = "both an image and a text", "only one study", "all texts say the same"
# What each objective finds wrong with each set; what is not here is sound.
WRONG = (
    {("no_images", name): PAIR for name in (*COMPARED, "matching", "captioning")}
    | {("no_texts", name): PAIR for name in (*COMPARED, "matching", "captioning")}
    | {("no_pairs", name): PAIR for name in (*COMPARED, "matching", "captioning")}
    | {("one_pair", name): ONE for name in (*COMPARED, "matching")}
    | {("one_text", name): SAME for name in (*COMPARED, "matching")}
    | {
        ("no_images", "masked_vision"): "no study has an image",
        ("no_texts", "masked_language"): "no study has a text",
        ("no_images", "soft_contrastive"): "no study with an image has a label",
        ("no_texts", "soft_contrastive"): "no study with a text has a label",
        ("no_label", "soft_contrastive"): "no study with an image has a label",
        ("no_label", "matching"): "all studies have the same labels",
        ("one_label", "matching"): "all studies have the same labels",
    }
)
OBJECTIVES = (*COMPARED, "soft_contrastive", "matching", "captioning", "masked_language") + (
    "masked_vision",
)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    for name, studies in SETS.items():
        build(root, name, studies)
    return root / "data"


def build(root: Path, name: str, studies: Sequence[tuple[int, str, str]]) -> None:
    with (root / f"{name}.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image_path", "text", "patient_id", "study_id", "split", "x", "y"])
        for split in ("train", "validation"):
            for index, (image, text, label) in enumerate(studies):
                path = f"{name}-{split}-{index}.png" if image else ""
                if path:
                    random = np.random.default_rng([len(split), index])
                    cv2.imwrite(str(root / path), random.integers(0, 255, (32, 32), np.uint8))
                labels = [int(label == "x"), int(label == "y")]
                row = [path, text, f"{split}{index}", f"{split}{index}", split, *labels]
                table.writerow(row)
    build_manifest(
        name, root / f"{name}.csv", root, label_columns=("x", "y"), data_dir=root / "data"
    )


def config_of(data_dir: Path, set_name: str, *names: str) -> ConfigDict:
    config = tiny.tiny_config("convirt")
    config.data.dataset, config.data.data_dir = f"manifest/{set_name}", str(data_dir)
    config.objectives.contrastive.weight = 0.0
    config.objectives.matching.negatives = "label_aware"
    for name in names:
        config.objectives[name].weight = 1.0
    return config


@pytest.mark.parametrize("set_name", SETS)
def test_what_each_objective_has_nothing_of(
    data_dir: Path, set_name: str, tokens: Tokenizer
) -> None:
    for split in ("train", "validation"):
        config = config_of(data_dir, set_name, *OBJECTIVES)
        found = nothing_to_learn(config, split, tokens, 8)
        wrong = {name: reason for (of, name), reason in WRONG.items() if of == set_name}
        assert found.keys() == wrong.keys()
        for name, reason in wrong.items():
            assert reason in found[name]
    if wrong:
        name = next(iter(found))
        with pytest.raises(UserError, match=rf"^config.objectives.{name} has nothing to learn"):
            check_training_data(config_of(data_dir, set_name, name), tokens)


def test_a_batch_of_one_study_has_nothing_to_compare(data_dir: Path, tokens: Tokenizer) -> None:
    config = config_of(data_dir, "sound", "contrastive", "captioning")
    assert list(nothing_to_learn(config, "train", tokens, 1)) == ["contrastive"]
    assert not nothing_to_learn(config, "train", tokens, 2)
    config = config_of(data_dir, "sound", "multi_view_contrastive")
    assert list(nothing_to_learn(config, "train", tokens, 2)) == ["multi_view_contrastive"]


def test_texts_that_are_the_same_tokens_are_one_text(data_dir: Path, tokens: Tokenizer) -> None:
    config = config_of(data_dir, "sound", "contrastive")
    config.text_encoder.max_length = 2  # [CLS] and [SEP]
    (reason,) = nothing_to_learn(config, "train", tokens, 8).values()
    assert reason == "the tokenizer makes the same tokens of all texts"


def test_a_mixture_is_seen_as_a_whole(data_dir: Path, tokens: Tokenizer) -> None:
    config = config_of(data_dir, "sound", "contrastive", "masked_vision", "masked_language")
    config.data.mixture = (("manifest/no_texts", 1.0, "image"), ("manifest/sound", 1.0))
    assert not nothing_to_learn(config, "train", tokens, 8)
    config.data.mixture = (("manifest/sound", 1.0, "image"), ("manifest/one_text", 1.0, "text"))
    found = nothing_to_learn(config, "train", tokens, 8)
    assert list(found) == ["contrastive"] and PAIR in found["contrastive"]
