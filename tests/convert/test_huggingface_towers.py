"""The towers in Transformers' own classes: outputs, files, and where there is none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import exports, tiny

from medclip_jax.convert.formats import huggingface_towers
from medclip_jax.convert.outputs import our_outputs
from medclip_jax.data.tokenizer import Tokenizer

pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("transformers")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokens"))


def image_encoder(name: str, pooling: str, **options: Any) -> dict[str, Any]:
    settings = {"name": name, "pooling": pooling} | options
    return {f"image_encoder.{key}": value for key, value in settings.items()}


IMAGES = [
    image_encoder("resnet18", "mean", width=6),
    image_encoder("resnet50", "max", channels=3) | {"augmentation.crop_size": 75},
    image_encoder("vit", "cls", channels=3, num_layers=2),
    image_encoder("vit", "mean", epsilon=1e-12) | {"augmentation.crop_size": 40},
]


@pytest.mark.parametrize("changes", IMAGES)
def test_image_tower(
    transformers: Any, tokens: Tokenizer, tmp_path: Path, changes: dict[str, Any]
) -> None:
    encoder = exports.random_encoder(tokens, **changes)
    assert huggingface_towers.write_image_tower(encoder, tmp_path)
    inputs = exports.random_inputs(encoder)
    found = huggingface_towers.tower_outputs(tmp_path, None, inputs)
    pools_alike = changes in (IMAGES[0], IMAGES[2])
    assert set(found) == {"image_grid"} | ({"image_features"} if pools_alike else set())
    assert max(exports.differences(encoder, inputs, found).values()) < 1e-4
    assert_saved_alike(transformers.AutoModel, tmp_path)
    assert (tmp_path / "image_processing_medclip.py").is_file()


def assert_saved_alike(auto: Any, directory: Path, **options: Any) -> None:
    """Every array is read, none is missing, and Transformers writes the same ones again."""
    model, report = auto.from_pretrained(directory, output_loading_info=True, **options)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    model.save_pretrained(directory / "again")
    written = load_file(directory / "model.safetensors")
    again = load_file(directory / "again" / "model.safetensors")
    assert set(written) == set(again)
    for name, array in written.items():
        assert array.dtype == again[name].dtype, name
        np.testing.assert_array_equal(array, again[name])


TEXTS = [
    {"text_encoder.num_layers": 2, "text_encoder.max_length": 20},
    {"text_encoder.num_layers": 0, "text_encoder.epsilon": 1e-6},
    {"text_encoder.max_position_embeddings": 12, "text_encoder.max_length": 12},
]


@pytest.mark.parametrize("changes", TEXTS)
def test_text_tower(
    transformers: Any, tokens: Tokenizer, tmp_path: Path, changes: dict[str, Any]
) -> None:
    encoder = exports.random_encoder(tokens, **changes)
    assert huggingface_towers.write_text_tower(encoder, tmp_path)
    inputs = exports.random_inputs(encoder)
    assert 2 in inputs.token_mask.sum(axis=1) and inputs.token_mask.all(axis=1).any()
    found = huggingface_towers.tower_outputs(None, tmp_path, inputs)
    assert exports.differences(encoder, inputs, found)["text_tokens"] < 1e-4
    assert_saved_alike(transformers.BertModel, tmp_path, add_pooling_layer=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    encoded = tokenizer(exports.TEXTS, padding="max_length", truncation=True, return_tensors="np")
    np.testing.assert_array_equal(encoded["input_ids"], inputs.token_ids)


def test_another_stride_has_the_weights_but_no_outputs(tokens: Tokenizer, tmp_path: Path) -> None:
    changes = image_encoder("resnet18", "mean", output_stride=16)
    encoder = exports.random_encoder(tokens, **changes)
    assert huggingface_towers.write_image_tower(encoder, tmp_path)
    inputs = exports.random_inputs(encoder)
    assert huggingface_towers.tower_outputs(tmp_path, None, inputs) == {}
    # With their stride these are the weights of our model.
    config = json.loads((tmp_path / "config.json").read_text())
    config[huggingface_towers.SAME_OUTPUTS] = ["image_grid"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    coarse = exports.random_encoder(tokens, **changes | {"image_encoder.output_stride": 32})
    found = huggingface_towers.tower_outputs(tmp_path, None, inputs)["image_grid"]
    np.testing.assert_allclose(found, our_outputs(coarse, inputs)["image_grid"], atol=1e-4)


def test_features_of_a_shared_fusion_are_not_the_towers(tokens: Tokenizer, tmp_path: Path) -> None:
    changes = image_encoder("vit", "cls") | {"fusion.shared": True}
    encoder = exports.random_encoder(tokens, "mixed", **changes)
    assert huggingface_towers.write_image_tower(encoder, tmp_path)
    found = huggingface_towers.tower_outputs(tmp_path, None, exports.random_inputs(encoder))
    assert set(found) == {"image_grid"}


def test_where_there_is_no_tower(tokens: Tokenizer, tmp_path: Path) -> None:
    encoder = exports.random_encoder(tokens, "radtex", **image_encoder("patches", "mean"))
    assert encoder.model.text_encoder is None
    assert not huggingface_towers.write_image_tower(encoder, tmp_path)
    assert not huggingface_towers.write_text_tower(encoder, tmp_path)
    assert not list(tmp_path.iterdir())
