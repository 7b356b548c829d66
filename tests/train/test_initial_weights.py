"""Runs that start from published weights: what they hold, keep, and tell."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from support.torch_references import randomize, torchvision, transformers  # noqa: F401

import medclip_jax
from medclip_jax.config import load_config
from medclip_jax.convert.variables_file import read_variables
from medclip_jax.data.tokenizer import train_wordpiece
from medclip_jax.errors import UserError
from medclip_jax.train.loop import pretrain
from medclip_jax.train.run import prepare_run

torch = pytest.importorskip("torch")

WORDS = ["small moderate large left right effusion heart size is normal there a"] * 3


@pytest.fixture(scope="module")
def published(transformers, tmp_path_factory) -> Path:  # noqa: F811
    """A ResNet and a BERT of Hugging Face's, with its tokenizer."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    resnet = transformers.ResNetConfig(
        embedding_size=4,
        hidden_sizes=[4, 8, 16, 32],
        depths=[2, 2, 2, 2],
        layer_type="basic",
    )
    transformers.ResNetModel(resnet).save_pretrained(folder / "resnet")
    train_wordpiece(WORDS, 60, folder / "bert")
    size = len((folder / "bert/vocab.txt").read_text().split())
    bert = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        vocab_size=size + 5,
        max_position_embeddings=40,
    )
    transformers.BertForMaskedLM(bert).save_pretrained(folder / "bert")
    vit = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
    )
    transformers.ViTModel(vit).save_pretrained(folder / "vit")
    return folder


SIZES = (
    "--config.text_encoder.hidden_size=16",
    "--config.text_encoder.num_heads=4",
    "--config.text_encoder.intermediate_size=24",
)


def options(published: Path) -> list[str]:
    return [
        f"--config.image_encoder.init={published / 'resnet'}",
        f"--config.text_encoder.init={published / 'bert'}",
        "--config.optimizer.ema_decay=0.5",
        *SIZES,
    ]


@pytest.mark.parametrize("mesh", [(), ("--config.mesh.data=2", "--config.mesh.fsdp=4")])
def test_a_new_run_holds_the_weights_on_every_mesh(
    published: Path, toy_config: Path, tmp_path: Path, mesh: tuple[str, ...], capsys
) -> None:
    run = prepare_run(load_config(str(toy_config), [*options(published), *mesh]), tmp_path)
    run.checkpointer.close()
    words = read_tensor(published / "bert", "bert.embeddings.word_embeddings.weight")
    table = run.state.params["text_encoder"]["embeddings"]["word_embeddings"]["embedding"]
    np.testing.assert_array_equal(table, words[:-5])  # those of the tokenizer's tokens
    stem = read_tensor(published / "resnet", "embedder.embedder.convolution.weight")
    kernel = run.state.params["image_encoder"]["stem_conv"]["kernel"]
    np.testing.assert_allclose(
        kernel[:, :, 0], stem.sum(axis=1).transpose(1, 2, 0), rtol=1e-6, atol=1e-7
    )
    for params, ema in zip(
        jax.tree.leaves(run.state.params), jax.tree.leaves(run.state.ema_params), strict=True
    ):
        np.testing.assert_array_equal(params, ema)
    assert "projection" in " ".join(run.state.params)  # which stays random
    printed = capsys.readouterr().out
    assert "image_encoder from" in printed and "of a Hugging Face ResNet were loaded" in printed
    assert f"reshaped: params/embeddings/word_embeddings/embedding from {words.shape}" in printed
    assert "left out: cls" in printed


def read_tensor(folder: Path, name: str) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")[name]


@pytest.mark.slow
def test_a_run_needs_the_weights_once_and_evaluation_never(
    published: Path, toy_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved, workdir = tmp_path / "moved", tmp_path / "run"
    shutil.copytree(published, moved)
    short = [*options(moved), "--config.checkpoint_every=2"]
    config = load_config(str(toy_config), [*short, "--config.num_steps=2"])
    pretrain(config, workdir)
    shutil.rmtree(moved)
    encoder = medclip_jax.load(workdir)
    given, random = encoder.as_given(), encoder.randomly_initialized()
    assert given is not None
    initial, _ = read_variables(workdir / "initial_encoders.safetensors")
    for part in ("image_encoder", "text_encoder"):
        for found, expected in zip(
            jax.tree.leaves(given.variables["params"][part]),
            jax.tree.leaves(initial["params"][part]),
            strict=True,
        ):
            np.testing.assert_array_equal(found, expected)
    for part in ("image_projection", "text_projection"):
        for found, expected in zip(
            jax.tree.leaves(given.variables["params"][part]),
            jax.tree.leaves(random.variables["params"][part]),
            strict=True,
        ):
            np.testing.assert_array_equal(found, expected)
    pretrain(config, workdir)
    assert "resumed from the checkpoint at step 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["text_encoder.init={0}/bert"],
            "give --config.text_encoder.num_heads=4 --config.text_encoder.intermediate_size=24",
        ),
        (
            ["text_encoder.init={0}/bert/model.safetensors"],
            "without a tokenizer: give",
        ),
        (["image_encoder.init={0}/bert"], "its config.json has model_type 'bert'; only resnet"),
        (
            [
                "text_encoder.name=none",
                "text_encoder.init={0}/bert",
                "objectives.contrastive.weight=0",
                "objectives.captioning.weight=1",
            ],
            "config.text_encoder.init needs an encoder that has published weights",
        ),
        (["image_encoder.init=/nowhere.pth"], "/nowhere.pth: no such file or directory"),
        (
            ["image_encoder.name=vit", "image_encoder.init={0}/vit"],
            "give --config.image_encoder.name=vit --config.image_encoder.hidden_size=32 .*"
            "num_layers=2 .*num_heads=4 .*patch_size=8 .*epsilon=1e-12",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(
    published: Path, toy_config: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    flags = [f"--config.{override.format(published)}" for override in overrides]
    with pytest.raises(UserError) as caught:
        prepare_run(load_config(str(toy_config), flags), tmp_path)
    assert re.search(message, str(caught.value)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "gelu_new"),
        ("position_embedding_type", "relative_key"),
        ("model_type", "roberta"),
    ],
)
def test_encoders_that_compute_otherwise_are_refused(
    published: Path, toy_config: Path, tmp_path: Path, key: str, value: str
) -> None:
    shutil.copytree(published / "bert", tmp_path / "bert")
    path = tmp_path / "bert/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    flags = [f"--config.text_encoder.init={tmp_path / 'bert'}", *SIZES]
    with pytest.raises(UserError, match=f"its config.json has {key} '{value}'; only "):
        prepare_run(load_config(str(toy_config), flags), tmp_path / "run")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("folder", "part", "array"),
    [
        ("resnet", "image_encoder", "embedder.embedder.normalization.running_mean"),
        ("bert", "text_encoder", "bert.encoder.layer.1.output.dense.bias"),
    ],
)
def test_weights_that_are_not_finite_are_refused(
    published: Path,
    toy_config: Path,
    tmp_path: Path,
    folder: str,
    part: str,
    array: str,
    value: float,
) -> None:
    flags = [f"--config.{part}.init={tmp_path / folder}", *SIZES]
    spoil(published / folder, tmp_path / folder, array, value)
    with pytest.raises(UserError) as caught:
        prepare_run(load_config(str(toy_config), flags), tmp_path / "run")
    message = str(caught.value)
    assert message.startswith(f"config.{part}.init {tmp_path / folder}: the numbers of {array} are")
    assert not (tmp_path / "run/initial_encoders.safetensors").exists()


def test_what_is_left_out_of_given_weights_may_be_anything(
    published: Path, toy_config: Path, tmp_path: Path
) -> None:
    spoil(published / "bert", tmp_path / "bert", "cls.predictions.transform.dense.bias", np.nan)
    flags = [f"--config.text_encoder.init={tmp_path / 'bert'}", *SIZES]
    prepare_run(load_config(str(toy_config), flags), tmp_path / "run").checkpointer.close()


def spoil(source: Path, target: Path, name: str, value: float) -> None:
    """Copies a model, with one number of an array replaced."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, target)
    arrays = load_file(target / "model.safetensors")
    arrays[name] = arrays[name].copy()
    arrays[name].flat[-1] = value
    save_file(arrays, target / "model.safetensors")
