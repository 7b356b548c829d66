"""Exports for torchvision against our outputs, and what it has no place for."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import exports, tiny

from medclip_jax.convert.formats import torchvision_format
from medclip_jax.convert.from_pytorch import resnet_from_torchvision
from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.errors import UserError

pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("torchvision")
RESNET18 = {"image_encoder.name": "resnet18", "image_encoder.width": 64}
RESNET50 = {"image_encoder.name": "resnet50", "image_encoder.width": 64}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokens"))


@pytest.mark.parametrize(("channels", "size"), [(1, 64), (3, 75)])
def test_outputs(tokens: Tokenizer, tmp_path: Path, channels: int, size: int) -> None:
    encoder = exports.random_encoder(tokens, **RESNET18, **{"image_encoder.channels": channels})
    torchvision_format.write(encoder, tmp_path)
    inputs = exports.random_inputs(encoder, size)
    found = torchvision_format.outputs(tmp_path, inputs)
    differences = exports.differences(encoder, inputs, found)
    assert set(differences) == {"image_features", "image_grid"}
    assert max(differences.values()) < 1e-4, differences


def test_resnet50_comes_back(torchvision, randomize, tokens: Tokenizer, tmp_path: Path) -> None:
    state = randomize(torchvision.models.resnet50())
    variables = resnet_from_torchvision(state, channels=3)
    encoder = exports.random_encoder(tokens, **RESNET50, **{"image_encoder.channels": 3})
    encoder = exports.with_part(encoder, "image_encoder", variables)
    torchvision_format.write(encoder, tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert set(state) - set(found) == {"fc.weight", "fc.bias"}
    for name, array in found.items():
        np.testing.assert_array_equal(array, state[name])
    inputs = exports.random_inputs(encoder, 98)
    outputs = torchvision_format.outputs(tmp_path, inputs)
    assert max(exports.differences(encoder, inputs, outputs).values()) < 1e-4


def test_a_grey_stem_becomes_three_equal_kernels(tokens: Tokenizer, tmp_path: Path) -> None:
    encoder = exports.random_encoder(tokens, **RESNET18)
    torchvision_format.write(encoder, tmp_path)
    stem = load_file(tmp_path / "model.safetensors")["conv1.weight"]
    ours = encoder.variables["params"]["image_encoder"]["stem_conv"]["kernel"]
    for channel in range(3):
        np.testing.assert_allclose(3 * stem[:, channel], ours[:, :, 0].transpose(2, 0, 1))


def test_files_and_damage(tokens: Tokenizer, tmp_path: Path) -> None:
    encoder = exports.random_encoder(tokens, **RESNET18)
    torchvision_format.write(encoder, tmp_path)
    names = {"config.json", "model.safetensors", "preprocessing.py", "preprocessor_config.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert '"channels": 3' in (tmp_path / "preprocessor_config.json").read_text()
    arrays = load_file(tmp_path / "model.safetensors")
    del arrays["layer4.1.bn2.running_var"]
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"layer4.1.bn2.running_var"):
        torchvision_format.outputs(tmp_path, exports.random_inputs(encoder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (RESNET18 | {"image_encoder.width": 32}, "width is 32, .*have 64; use --format hugg"),
        (
            RESNET18 | {"image_encoder.output_stride": 16},
            "output_stride is 16, .*have 32; use --format huggingface",
        ),
        (RESNET18 | {"image_encoder.pooling": "max"}, "pooling is max, .*; use --format timm"),
        ({"image_encoder.name": "vit"}, "image_encoder.name is vit, .*; use --format timm"),
        ({"image_encoder.name": "patches"}, "name is patches, .*; use --format huggingface"),
    ],
)
def test_what_has_no_place(tokens: Tokenizer, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        torchvision_format.write(exports.random_encoder(tokens, **changes), tmp_path)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


SHARED = RESNET18 | {"fusion.shared": True}


def test_a_shared_fusion_has_no_place(tokens: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fusion.shared is True"):
        torchvision_format.write(exports.random_encoder(tokens, "mixed", **SHARED), tmp_path)
