"""The text encoders that the documentation names: the arrays of their files, in their real sizes.

The files themselves are not here: names and shapes are those of the classes of Transformers, or of
the model's own code, that wrote them. See docs/pytorch.md.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.convert.pretrained import Fitted, fit_image_encoder, fit_text_encoder
from medclip_jax.convert.weight_files import Weights, read_weights
from medclip_jax.models.bert import Bert
from medclip_jax.models.resnet import ResNet
from medclip_jax.models.vit import VisionTransformer

torch = pytest.importorskip("torch")

# The class that wrote the file, changes to its config (else BERT-base's), the size of CXR-BERT's
# projection head, whether there are position ids, and what has no place in our encoder.
CHECKPOINTS: dict[str, tuple[str, dict[str, int], int, bool, str]] = {
    "microsoft/BiomedVLP-CXR-BERT-general": (
        ("BertForMaskedLM", {"vocab_size": 30522}, 128, True, "cls, cls_projection_head")
    ),
    "microsoft/BiomedVLP-CXR-BERT-specialized": (
        ("BertForMaskedLM", {"vocab_size": 30522}, 128, True, "cls, cls_projection_head")
    ),
    "emilyalsentzer/Bio_ClinicalBERT": (
        ("BertForPreTraining", {"vocab_size": 28996}, 0, False, "cls, pooler")
    ),
    "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract-fulltext": (
        ("BertForPreTraining", {"vocab_size": 30522}, 0, True, "cls, pooler")
    ),
    "sentence-transformers/all-MiniLM-L6-v2": (
        "BertModel",
        {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
        0,
        True,
        "pooler",
    ),
}


def with_projection_head(model: Any, size: int) -> Any:
    """As `CXRBertModel` of health_multimodal extends `BertForMaskedLM`."""
    head = torch.nn.Module()
    head.dense_to_hidden = torch.nn.Linear(model.config.hidden_size, size)
    head.LayerNorm = torch.nn.LayerNorm(size, eps=1e-12)
    head.dense_to_output = torch.nn.Linear(size, size)
    model.cls_projection_head = head
    return model


def without_memory(model: Any) -> dict[str, np.ndarray]:
    """Arrays of the model's shapes that hold a single number."""
    return {
        name: np.broadcast_to(np.float32(0), tuple(tensor.shape))
        for name, tensor in model.state_dict().items()
    }


def fit_bert(weights: Weights, sizes: dict[str, int], vocab_size: int) -> tuple[Bert, Fitted]:
    encoder = Bert(vocab_size=vocab_size, **sizes)
    shapes = jax.eval_shape(
        lambda: encoder.init(
            jax.random.key(0),
            jnp.zeros((1, 4), jnp.int32),
            jnp.ones((1, 4), bool),
            deterministic=True,
        )
    )
    return encoder, fit_text_encoder(weights, shapes)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_array_has_its_place(transformers: Any, name: str) -> None:
    class_name, changes, projection, has_position_ids, left_out = CHECKPOINTS[name]
    config = transformers.BertConfig(**changes)
    with torch.device("meta"):
        model = getattr(transformers, class_name)(config)
        if projection:
            model = with_projection_head(model, projection)
    arrays = without_memory(model)
    if has_position_ids:
        prefix = "" if class_name == "BertModel" else "bert."
        arrays[f"{prefix}embeddings.position_ids"] = np.arange(512)[None]
    sizes = {
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": 512,
    }
    _, fitted = fit_bert(Weights(arrays, {}), sizes, config.vocab_size)
    count = 5 + 16 * config.num_hidden_layers
    assert fitted.notes == [
        f"{count} arrays of a Hugging Face BERT were loaded",
        f"left out: {left_out}",
    ]


def test_cxr_bert_computes_the_same(transformers: Any, randomize: Any, tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=20,
    )
    theirs = with_projection_head(transformers.BertForMaskedLM(config), 8)
    randomize(theirs.eval())
    state = {**theirs.state_dict(), "bert.embeddings.position_ids": torch.arange(20)[None]}
    torch.save(state, tmp_path / "pytorch_model.bin")
    settings = {**config.to_dict(), "model_type": "cxr-bert", "projection_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    sizes = {"hidden_size": 24, "num_layers": 2, "num_heads": 4, "intermediate_size": 48}
    encoder, fitted = fit_bert(
        read_weights(str(tmp_path)), {**sizes, "max_position_embeddings": 20}, 60
    )
    ids = np.random.default_rng(0).integers(0, 60, (3, 20))
    mask = np.arange(20) < np.array([[20], [7], [1]])
    found = encoder.apply(fitted.variables, ids, mask, deterministic=True)
    with torch.no_grad():
        expected = theirs.bert(
            torch.from_numpy(ids), attention_mask=torch.from_numpy(mask.astype(np.int64))
        ).last_hidden_state
    np.testing.assert_allclose(found[mask], expected.numpy()[mask], atol=1e-4)


def test_resnet50_of_torchvision_and_timm(torchvision: Any, timm: Any) -> None:
    encoder = ResNet(blocks=(3, 4, 6, 3), bottleneck=True)
    shapes = jax.eval_shape(
        lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 64, 64, 1)), train=False)
    )
    with torch.device("meta"):
        models = (torchvision.models.resnet50(), timm.create_model("resnet50"))
    for model in models:
        fitted = fit_image_encoder(Weights(without_memory(model), {}), shapes, channels=1)
        assert fitted.notes[1:] == ["left out: fc"]


def test_vit_base_of_torchvision_and_timm(torchvision: Any, timm: Any) -> None:
    encoder = VisionTransformer(hidden_size=768, num_layers=12, num_heads=12)
    shapes = jax.eval_shape(
        lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 224, 224, 1)), train=False)
    )
    with torch.device("meta"):
        models = (torchvision.models.vit_b_16(), timm.create_model("vit_base_patch16_224"))
    for model, head in zip(models, ("heads", "head"), strict=True):
        fitted = fit_image_encoder(Weights(without_memory(model), {}), shapes, channels=1)
        assert fitted.notes[1:] == [f"left out: {head}"]
