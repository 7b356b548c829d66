"""Exports for timm against our outputs, both ways to load them, and what it has no place for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import exports, tiny

from medclip_jax.convert.formats import timm_format
from medclip_jax.convert.from_pytorch import vit_from_timm
from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.errors import UserError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("timm")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokens"))


def image_encoder(name: str, pooling: str, **options: Any) -> dict[str, Any]:
    settings = {"name": name, "pooling": pooling, "width": 64} | options
    return {f"image_encoder.{key}": value for key, value in settings.items()}


CASES = [
    image_encoder("resnet18", "mean"),
    image_encoder("resnet18", "max", channels=3) | {"augmentation.crop_size": 75},
    image_encoder("resnet50", "mean"),
    image_encoder("vit_tiny", "cls", channels=3),
    image_encoder("vit", "cls", num_layers=2) | {"augmentation.crop_size": 40},
    image_encoder("vit", "mean", channels=3),
    image_encoder("vit", "max") | {"augmentation.crop_size": 96},
]


@pytest.mark.parametrize("changes", CASES)
def test_outputs(timm: Any, tokens: Tokenizer, tmp_path: Path, changes: dict[str, Any]) -> None:
    encoder = exports.random_encoder(tokens, **changes)
    timm_format.write(encoder, tmp_path)
    inputs = exports.random_inputs(encoder)
    found = timm_format.outputs(tmp_path, inputs)
    differences = exports.differences(encoder, inputs, found)
    assert set(differences) == {"image_features", "image_grid"}
    assert max(differences.values()) < 1e-4, differences
    # The other way: the architecture, its arguments and a state dict.
    config = json.loads((tmp_path / "config.json").read_text())
    model = timm.create_model(config["architecture"], num_classes=0, **config["model_args"])
    arrays = load_file(tmp_path / "model.safetensors")
    model.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()}, strict=True)
    images = torch.from_numpy(inputs.image.transpose(0, 3, 1, 2))
    with torch.no_grad():
        features = model.eval()(images.expand(-1, encoder.model.image_channels, -1, -1))
    np.testing.assert_allclose(features, found["image_features"], atol=1e-5)


def test_vit_small_comes_back(timm, randomize, tokens: Tokenizer, tmp_path: Path) -> None:
    reference = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
    state = randomize(reference)
    changes = image_encoder("vit_small", "cls", channels=3) | {"augmentation.crop_size": 224}
    encoder = exports.random_encoder(tokens, **changes)
    params = vit_from_timm(state, channels=3)
    encoder = exports.with_part(encoder, "image_encoder", {"params": params})
    timm_format.write(encoder, tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert set(found) == set(state)
    for name, array in found.items():
        np.testing.assert_array_equal(array, state[name])
    inputs = exports.random_inputs(encoder)
    outputs = timm_format.outputs(tmp_path, inputs)
    assert max(exports.differences(encoder, inputs, outputs).values()) < 1e-4
    with torch.no_grad():
        images = torch.from_numpy(inputs.image.transpose(0, 3, 1, 2)).expand(-1, 3, -1, -1)
        np.testing.assert_allclose(outputs["image_features"], reference(images), atol=1e-5)


@pytest.mark.parametrize("changes", [CASES[0], CASES[4]])
def test_a_classifier_is_put_on_top(
    timm: Any, tokens: Tokenizer, tmp_path: Path, changes: dict[str, Any]
) -> None:
    encoder = exports.random_encoder(tokens, **changes)
    timm_format.write(encoder, tmp_path)
    inputs = exports.random_inputs(encoder)
    features = timm_format.outputs(tmp_path, inputs)["image_features"]
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=5).eval()
    with torch.no_grad():
        found = model(torch.from_numpy(inputs.image.transpose(0, 3, 1, 2)))
        expected = model.get_classifier()(torch.from_numpy(features))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_preprocessing_of_timm(timm: Any, tokens: Tokenizer, tmp_path: Path) -> None:
    changes = {"augmentation.mean": 0.4, "augmentation.std": 0.3, "augmentation.crop_size": 40}
    timm_format.write(exports.random_encoder(tokens, **CASES[4] | changes), tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    found = timm.data.resolve_model_data_config(model)
    assert found["input_size"] == (1, 40, 40) and found["interpolation"] == "bilinear"
    assert (*found["mean"], *found["std"], found["crop_pct"]) == (0.4, 0.3, 1.0)
    assert {"preprocessing.py", "preprocessor_config.json"} < {p.name for p in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (image_encoder("resnet18", "mean", width=32), "width is 32, .*; use --format huggingface"),
        (image_encoder("resnet50", "max", output_stride=16), "output_stride is 16, .* have 32"),
        (image_encoder("vit", "cls", epsilon=1e-12), "epsilon is 1e-12, in its transf.* 1e-06; "),
        (image_encoder("patches", "mean"), "image_encoder.name is patches, .* resnet or vit"),
    ],
)
def test_what_has_no_place(
    tokens: Tokenizer, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        timm_format.write(exports.random_encoder(tokens, **changes), tmp_path)
    assert str(error.value).endswith("use --format huggingface") and not list(tmp_path.iterdir())


def test_a_shared_fusion_has_no_place(tokens: Tokenizer, tmp_path: Path) -> None:
    changes = image_encoder("vit", "cls") | {"fusion.shared": True}
    encoder = exports.random_encoder(tokens, "mixed", **changes)
    with pytest.raises(UserError, match="fusion.shared is True"):
        timm_format.write(encoder, tmp_path)
