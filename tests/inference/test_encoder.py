"""Encoders in use: from a trained run to embeddings, whatever form the images have."""

import csv
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from support import commands

import medclip_jax
from medclip_jax.data.datasets import open_split
from medclip_jax.embed import embed_to_file, image_paths
from medclip_jax.errors import UserError
from medclip_jax.inference import Encoder


@pytest.fixture(scope="module")
def workdir(toy_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("inference")
    commands.finish(
        commands.start(
            toy_config,
            workdir,
            "--config.num_steps=6",
            "--config.optimizer.ema_decay=0.5",
            "--config.temperature.init=0.2",
        )
    )
    return workdir


@pytest.fixture(scope="module")
def encoder(workdir: Path) -> Encoder:
    return medclip_jax.load(workdir)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(1)
    paths = [str(folder / f"{index}.png") for index in range(5)]
    for path in paths:
        cv2.imwrite(path, rng.integers(0, 255, (40, 30), np.uint8))
    return paths


def test_a_run_without_published_weights_was_given_none(encoder: Encoder) -> None:
    assert encoder.as_given() is None


def test_paths_bytes_arrays_and_pil_images_give_the_same(
    encoder: Encoder, files: list[str]
) -> None:
    expected = encoder.embed_images(files)
    assert expected.shape == (5, 8) and expected.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)
    for form in (
        [Path(path).read_bytes() for path in files],
        [cv2.imread(path, cv2.IMREAD_GRAYSCALE) for path in files],
        [PIL.Image.open(path) for path in files],
    ):
        np.testing.assert_array_equal(encoder.embed_images(form), expected)


def test_the_batch_size_changes_nothing(encoder: Encoder, files: list[str]) -> None:
    expected = encoder.embed_images(files, batch_size=2)
    np.testing.assert_allclose(encoder.embed_images(files, batch_size=64), expected, atol=1e-6)
    texts = ["small left effusion", "large right effusion", "normal"]
    np.testing.assert_allclose(
        encoder.embed_texts(texts, batch_size=2), encoder.embed_texts(texts), atol=1e-6
    )


def test_features_are_those_before_the_projection(encoder: Encoder, files: list[str]) -> None:
    features = encoder.image_features(files)
    assert features.shape == (5, 32)  # width 4, times eight in the last stage
    head = encoder.variables["params"]["image_projection"]
    hidden = np.maximum(features @ head["hidden"]["kernel"] + head["hidden"]["bias"], 0)
    projected = hidden @ head["output"]["kernel"] + head["output"]["bias"]
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.embed_images(files), projected, atol=1e-5)


def test_zero_shot_is_the_softmax_over_the_two_prompt_directions(
    encoder: Encoder, files: list[str]
) -> None:
    prompts = {"Left": (["left effusion", "on the left"], ["right effusion"])}
    images = encoder.embed_images(files)
    means = [encoder.embed_texts(list(texts)).mean(axis=0) for texts in prompts["Left"]]
    logits = [images @ (mean / np.linalg.norm(mean)) / encoder.temperature for mean in means]
    expected = np.exp(logits[0]) / (np.exp(logits[0]) + np.exp(logits[1]))
    np.testing.assert_allclose(encoder.zero_shot(files, prompts)[:, 0], expected, atol=1e-6)


def test_the_best_checkpoint_and_the_averaged_weights_are_loaded(
    encoder: Encoder, workdir: Path
) -> None:
    validation = {
        line["step"]: line["validation/loss"]
        for line in commands.metrics(workdir)
        if "validation/loss" in line
    }
    assert encoder.step == min(validation, key=lambda step: validation[step])
    assert abs(encoder.temperature - 0.2) < 0.01


def test_random_initialisation_differs_by_seed_alone(encoder: Encoder, files: list[str]) -> None:
    one, again, other = (
        encoder.randomly_initialized(seed).embed_images(files) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3
    assert np.abs(one - encoder.embed_images(files)).max() > 1e-3


def test_mistakes_are_user_errors(encoder: Encoder, tmp_path: Path) -> None:
    for wrong, message in (
        (lambda: encoder.embed_images([]), "no images"),
        (lambda: encoder.embed_images([str(tmp_path / "none.png")]), "cannot be read"),
        (lambda: encoder.embed_texts("one string"), "list of strings"),
        (lambda: encoder.zero_shot([], {"a": (["x"], [])}), "prompts of 'a'"),
        (lambda: medclip_jax.load(tmp_path), "not a run's workdir"),
    ):
        with pytest.raises(UserError, match=message):
            wrong()


def test_a_workdir_without_a_checkpoint(workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    (tmp_path / "tokenizer").symlink_to(workdir / "tokenizer")
    with pytest.raises(UserError, match="holds no checkpoint"):
        medclip_jax.load(tmp_path)


def test_embed_writes_npz_and_parquet(
    workdir: Path, encoder: Encoder, files: list[str], tmp_path: Path
) -> None:
    pattern = str(Path(files[0]).parent / "*.png")
    embed_to_file(workdir, images=pattern, texts=None, output=tmp_path / "out" / "images.npz")
    written = np.load(tmp_path / "out" / "images.npz")
    assert written["source"].tolist() == files
    np.testing.assert_allclose(written["embedding"], encoder.embed_images(files), atol=1e-6)

    (tmp_path / "texts.txt").write_text("small left effusion\n\nnormal\n")
    output = tmp_path / "texts.parquet"
    embed_to_file(workdir, images=None, texts=tmp_path / "texts.txt", output=output)
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(output).to_pydict()
    assert table["source"] == ["small left effusion", "normal"]
    np.testing.assert_allclose(table["embedding"], encoder.embed_texts(table["source"]), atol=1e-6)


def test_image_paths_from_a_csv(tmp_path: Path) -> None:
    with (tmp_path / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image_path", "x"], ["a/b.png", 1], ["c.png", 2]])
    assert image_paths(str(tmp_path / "images.csv")) == [
        str(tmp_path / "a" / "b.png"),
        str(tmp_path / "c.png"),
    ]
    with pytest.raises(UserError, match="no file matches"):
        image_paths(str(tmp_path / "*.jpg"))
    (tmp_path / "other.csv").write_text("path\na.png\n")
    with pytest.raises(UserError, match="image_path"):
        image_paths(str(tmp_path / "other.csv"))


def test_stored_images_embed_as_they_are(encoder: Encoder, toy_data: Path) -> None:
    studies = open_split("manifest/toy", "test", toy_data)
    images = [study.images[0] for study in studies]
    assert encoder.embed_images(images).shape == (16, 8)


def test_an_encoder_is_immutable(encoder: Encoder) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        encoder.step = 3  # type: ignore[misc]
