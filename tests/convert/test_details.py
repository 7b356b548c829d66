"""Details that random weights hardly show: a test each that fails where one is wrong.

What is changed in an export must change its outputs, else the comparison would not see it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import exports, tiny

from medclip_jax.convert.formats import huggingface_towers, timm_format
from medclip_jax.convert.outputs import Inputs, Outputs
from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.inference import Encoder
from medclip_jax.models.layers import BatchNorm

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("transformers", "timm")
VIT = {"image_encoder.name": "vit", "image_encoder.pooling": "cls"}
# What makes the activations that the first norm sees as small as the roots of the epsilons.
TINY = dict.fromkeys(("patch_embedding", "cls_token", "position_embedding", "embeddings/w"), 1e-6)
TINY |= dict.fromkeys(("embeddings/position", "embeddings/token_type"), 1e-6)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokens"))


def towers(encoder: Encoder, directory: Path) -> Path:
    """Writes both towers."""
    for name in ("image", "text"):
        (directory / name).mkdir()
    huggingface_towers.write_image_tower(encoder, directory / "image")
    huggingface_towers.write_text_tower(encoder, directory / "text")
    return directory


def tower_outputs(directory: Path, inputs: Inputs) -> Outputs:
    return huggingface_towers.tower_outputs(directory / "image", directory / "text", inputs)


def change_configs(directory: Path, **changes: Any) -> None:
    for name in ("image", "text"):
        path = directory / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("epsilon", "other"), [(1e-12, 1e-6), (1e-6, 1e-12)])
def test_layer_norm_epsilon(
    tokens: Tokenizer, tmp_path: Path, epsilon: float, other: float
) -> None:
    changes = VIT | {"image_encoder.epsilon": epsilon, "text_encoder.epsilon": epsilon}
    changes |= {"image_encoder.num_layers": 0, "text_encoder.num_layers": 0}
    encoder = exports.scaled(exports.random_encoder(tokens, **changes), TINY)
    inputs = exports.random_inputs(encoder)
    found = tower_outputs(towers(encoder, tmp_path), inputs)
    assert max(exports.differences(encoder, inputs, found).values()) < 1e-4
    change_configs(tmp_path, layer_norm_eps=other)
    wrong = exports.differences(encoder, inputs, tower_outputs(tmp_path, inputs))
    assert min(wrong.values()) > 0.1, wrong
    if epsilon == 1e-6:
        timm_format.write(encoder, exports.fresh(tmp_path / "timm"))
        found = timm_format.outputs(tmp_path / "timm", inputs)
        assert max(exports.differences(encoder, inputs, found).values()) < 1e-4


@pytest.mark.parametrize(
    "wrong", [{"hidden_act": "gelu_new"}, {"num_attention_heads": 4}, {"pooler_act": "tanh"}]
)
def test_gelu_heads_and_pooler(tokens: Tokenizer, tmp_path: Path, wrong: dict[str, Any]) -> None:
    encoder = exports.random_encoder(tokens, **VIT)
    inputs = exports.random_inputs(encoder)
    found = tower_outputs(towers(encoder, tmp_path), inputs)
    assert max(exports.differences(encoder, inputs, found).values()) < 1e-5
    change_configs(tmp_path, **wrong)
    changed = exports.differences(encoder, inputs, tower_outputs(tmp_path, inputs))
    of_pooler = wrong.keys() == {"pooler_act"}
    names = ("image_features",) if of_pooler else ("image_features", "image_grid", "text_tokens")
    assert min(changed[name] for name in names) > 1e-4, changed


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm_epsilon_and_momentum(train: bool) -> None:
    """In channels that hardly vary, which the epsilon outweighs."""
    generator = np.random.default_rng(0)
    x = generator.normal(1, 1e-3, (4, 3, 3, 5)).astype(np.float32)
    mean, var = (generator.uniform(0, 1e-6, 5).astype(np.float32) for _ in range(2))
    ones, zeros = np.ones(5, np.float32), np.zeros(5, np.float32)
    variables = {
        "params": {"scale": ones, "bias": zeros},
        "batch_stats": {"mean": mean, "var": var},
    }
    ours, updated = BatchNorm().apply(variables, x, train=train, mutable=["batch_stats"])
    reference = torch.nn.BatchNorm2d(5).train(train)
    reference.running_mean.copy_(torch.from_numpy(mean))
    reference.running_var.copy_(torch.from_numpy(var))
    expected = reference(torch.from_numpy(x.transpose(0, 3, 1, 2))).detach().permute(0, 2, 3, 1)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], reference.running_mean, rtol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["var"], reference.running_var, rtol=1e-4)


def test_patch_order(tokens: Tokenizer, tmp_path: Path) -> None:
    """Without layers, one patch that is not blank changes its own cell of the grid alone."""
    encoder = exports.random_encoder(tokens, **VIT, **{"image_encoder.num_layers": 0})
    inputs = exports.random_inputs(encoder)
    inputs.image[:] = 0
    row, column = 2, 5  # of 8 x 8 patches of 8 pixels
    inputs.image[0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1
    timm_format.write(encoder, exports.fresh(tmp_path / "timm"))
    towers(encoder, tmp_path)
    for found in (
        timm_format.outputs(tmp_path / "timm", inputs),
        tower_outputs(tmp_path, inputs),
    ):
        grid = found["image_grid"]
        changed = np.abs(grid[0] - grid[1]).max(axis=1) > 1e-3
        np.testing.assert_array_equal(changed.nonzero()[0], [8 * row + column])
        assert exports.differences(encoder, inputs, found)["image_grid"] < 1e-5


@pytest.mark.parametrize(("row", "counts"), [(0, True), (1, False)])
def test_token_types_are_row_zero(
    tokens: Tokenizer, tmp_path: Path, row: int, counts: bool
) -> None:
    encoder = exports.random_encoder(tokens)
    inputs = exports.random_inputs(encoder)
    towers(encoder, tmp_path)
    path = tmp_path / "text" / "model.safetensors"
    arrays = load_file(path)
    arrays["embeddings.token_type_embeddings.weight"][row] += np.arange(16, dtype=np.float32)
    save_file(arrays, path, metadata={"format": "pt"})
    found = huggingface_towers.tower_outputs(None, tmp_path / "text", inputs)
    difference = exports.differences(encoder, inputs, found)["text_tokens"]
    assert difference > 0.1 if counts else difference < 1e-5
