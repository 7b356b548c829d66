"""The whole model as Hugging Face loads it, by name and with code from its directory."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import tiny
from support.exports import random_encoder
from support.whole_models import make_inputs, torch_inputs, write

from medclip_jax.convert.outputs import Inputs, our_outputs
from medclip_jax.inference import Encoder

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("code_cache")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """One of a ResNet, a fusion and all heads."""
    tokens = tiny.tokenizer(tmp_path_factory.mktemp("tokens"))
    changes = {"image_encoder.name": "resnet18", "objectives.masked_vision.scales": (1, 2)}
    return random_encoder(tokens, "combined", **changes)


@pytest.fixture
def export(encoder: Encoder, tmp_path: Path) -> Path:
    """What an export holds of the model, in a directory whose name is no name of a module."""
    directory = tmp_path / "whole-model.v1"
    directory.mkdir()
    return write(encoder, directory)


def load(directory: Path) -> Any:
    """The model, after a check that no tensor was missing, left over or of another shape."""
    from transformers import AutoModel

    model, info = AutoModel.from_pretrained(
        directory, trust_remote_code=True, output_loading_info=True
    )
    assert not any(info.values()), info
    return model


def arguments(inputs: Inputs) -> dict[str, Any]:
    """What a processor and a tokenizer give, the segments of tokens too."""
    image, ids, mask, _ = torch_inputs(inputs)
    return {
        "pixel_values": image,
        "input_ids": ids,
        "token_type_ids": torch.zeros_like(ids),
        "attention_mask": mask,
    }


def test_outputs_of_the_loaded_model(encoder: Encoder, export: Path) -> None:
    model = load(export)
    assert type(model).__name__ == "MedClipModel" and not model.training
    inputs = make_inputs(encoder)
    expected, given = our_outputs(encoder, inputs), arguments(inputs)
    with torch.no_grad():
        outputs = model(**given)
        outputs["patch_predictions"] = model.fill_patches(
            given["pixel_values"],
            torch.from_numpy(inputs.patch_is_masked),
            outputs["text_tokens"],
            given["attention_mask"],
        )
        image = model.get_image_features(given["pixel_values"])
        text = model.get_text_features(given["input_ids"], given["attention_mask"])
    assert outputs.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(outputs[name], array, atol=1e-5, rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(image, outputs["image_embeddings"])
    np.testing.assert_array_equal(text, outputs["text_embeddings"])


def test_saved_and_loaded_again(encoder: Encoder, export: Path, tmp_path: Path) -> None:
    model = load(export)
    with torch.no_grad():
        model.image_encoder.stem_conv.weight += 1.0
    model.save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again")
    kept, saved = load_file(export / "model.safetensors"), again.state_dict()
    assert kept.keys() == saved.keys()
    kept["image_encoder.stem_conv.weight"] += 1.0
    for name, array in kept.items():
        np.testing.assert_array_equal(saved[name].numpy(), array, err_msg=name)
    given = arguments(make_inputs(encoder))
    with torch.no_grad():
        first, second = model(**given), again(**given)
    for name, tensor in first.items():
        np.testing.assert_array_equal(second[name], tensor, err_msg=name)


def test_trained_further(encoder: Encoder, export: Path) -> None:
    """Dropout and the statistics of batches are on, and a step lowers the loss."""
    model = load(export).train()
    given = arguments(make_inputs(encoder))
    tracked = model.image_encoder.stem_norm.running_mean.clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss() -> Any:
        torch.manual_seed(0)
        logits = model(**given)["logits_per_image"]
        return torch.nn.functional.cross_entropy(logits, torch.arange(4))

    first = loss()
    first.backward()
    optimizer.step()
    assert loss() < first
    assert not torch.equal(tracked, model.image_encoder.stem_norm.running_mean)
    tokens = [model.encode_text(given["input_ids"], given["attention_mask"]) for _ in range(2)]
    assert not torch.equal(tokens[0]["text_tokens"], tokens[1]["text_tokens"])


def test_embeddings_that_a_model_does_not_have(export: Path) -> None:
    config = json.loads((export / "config.json").read_text())
    config["architecture"]["projection"] = None
    (export / "config.json").write_text(json.dumps(config))
    from transformers import AutoModel

    model = AutoModel.from_pretrained(export, trust_remote_code=True)
    for use in (
        lambda: model.get_image_features(torch.zeros(1, 1, tiny.SIZE, tiny.SIZE)),
        lambda: model.get_text_features(torch.zeros(1, 2, dtype=int), torch.ones(1, 2)),
    ):
        with pytest.raises(ValueError, match="this model has no (image|text)_projection"):
            use()
