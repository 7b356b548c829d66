"""Whole models in Transformers' `VisionTextDualEncoderModel`, and which ones it can hold."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import exports, tiny

from medclip_jax.convert.formats import dual_encoder
from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.inference import Encoder

pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("transformers")
PLAIN = {
    "image_encoder.name": "vit",
    "image_encoder.pooling": "cls",
    "text_encoder.pooling": "cls",
    "projection.kind": "linear",
    "temperature.learnable": True,
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokens"))


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature.init": 0.05, "temperature.learnable": False},
        {"image_encoder.channels": 3, "text_encoder.num_layers": 0},
        {"projection.bias": False, "projection.size": 40, "augmentation.crop_size": 40},
    ],
)
def test_outputs(
    transformers: Any, tokens: Tokenizer, tmp_path: Path, changes: dict[str, Any]
) -> None:
    encoder = exports.random_encoder(tokens, **PLAIN | changes)
    assert dual_encoder.fits(encoder)
    dual_encoder.write(encoder, tmp_path)
    inputs = exports.random_inputs(encoder)
    found = dual_encoder.outputs(tmp_path, inputs)
    differences = exports.differences(encoder, inputs, found)
    assert set(differences) == {"image_embeddings", "text_embeddings", "logits_per_image"}
    assert max(differences.values()) < 1e-4, differences
    model, report = transformers.VisionTextDualEncoderModel.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    model.save_pretrained(tmp_path / "again")
    written, again = (
        load_file(path / "model.safetensors") for path in (tmp_path, tmp_path / "again")
    )
    assert {k: v.shape for k, v in written.items()} == {k: v.shape for k, v in again.items()}
    for name, array in written.items():
        np.testing.assert_array_equal(array, again[name])


def test_padding_does_not_matter(tokens: Tokenizer, tmp_path: Path) -> None:
    encoder = exports.random_encoder(tokens, **PLAIN)
    dual_encoder.write(encoder, tmp_path)
    inputs = exports.random_inputs(encoder)
    found = dual_encoder.outputs(tmp_path, inputs)["text_embeddings"]
    other = inputs._replace(token_ids=np.where(inputs.token_mask, inputs.token_ids, 9))
    np.testing.assert_allclose(
        dual_encoder.outputs(tmp_path, other)["text_embeddings"], found, atol=1e-6
    )
    seen = other._replace(token_mask=np.ones_like(inputs.token_mask))
    assert np.abs(dual_encoder.outputs(tmp_path, seen)["text_embeddings"] - found).max() > 0.01


def test_large_activations_stay_linear(tokens: Tokenizer, tmp_path: Path) -> None:
    """Those of a published BERT reach some ten."""
    encoder = exports.random_encoder(tokens, **PLAIN)
    encoder = exports.scaled(encoder, {"text_encoder/layer_0/mlp_norm": 10.0})
    dual_encoder.write(encoder, tmp_path)
    inputs = exports.random_inputs(encoder)
    found = dual_encoder.outputs(tmp_path, inputs)
    assert exports.differences(encoder, inputs, found)["text_embeddings"] < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"image_encoder.name": "resnet18", "image_encoder.pooling": "mean"},
        {"image_encoder.pooling": "mean"},
        {"text_encoder.pooling": "mean"},
        {"projection.kind": "nonlinear"},
        {"projection.size": 40},  # no vector of 16 makes every bias of 40
        {"objectives.matching.weight": 1.0},
        {"objectives.captioning.weight": 1.0},
        {"objectives.local_contrastive.weight": 1.0},
        {"objectives.sigmoid_contrastive.weight": 1.0},
        {"fusion.num_layers": 1, "fusion.hidden_size": 16, "fusion.num_heads": 2},
    ],
)
def test_what_does_not_fit(tokens: Tokenizer, changes: dict[str, Any]) -> None:
    assert dual_encoder.fits(exports.random_encoder(tokens, **PLAIN))
    assert not dual_encoder.fits(exports.random_encoder(tokens, **PLAIN | changes))


def test_models_without_texts_or_embeddings_do_not_fit(tokens: Tokenizer) -> None:
    for name in ("radtex", "mixed"):
        assert not dual_encoder.fits(exports.random_encoder(tokens, name))


def test_a_bias_that_needs_a_large_replacement_does_not_fit(tokens: Tokenizer) -> None:
    encoder = exports.random_encoder(tokens, **PLAIN)
    params = encoder.variables["params"]
    projection = params["text_projection"]
    bias = {"output": projection["output"] | {"bias": 100 * projection["output"]["bias"]}}
    large: Encoder = dataclasses.replace(
        encoder, variables={"params": params | {"text_projection": bias}}
    )
    assert not dual_encoder.fits(large)
