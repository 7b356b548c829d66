"""The vision transformer against timm and Hugging Face, and its options."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.config import base_config
from medclip_jax.convert.from_pytorch import vit_from_huggingface, vit_from_timm
from medclip_jax.models.factory import IMAGE_ENCODERS
from medclip_jax.models.vit import VisionTransformer

SMALL = VisionTransformer(hidden_size=24, num_layers=2, num_heads=3)
BASE = VisionTransformer(hidden_size=768, num_layers=12, num_heads=12)
TIMM_POOLINGS = {"cls": "token", "mean": "avg", "max": "max"}


def timm_model(timm, **options):
    return timm.models.VisionTransformer(
        img_size=(48, 32),
        embed_dim=SMALL.hidden_size,
        depth=SMALL.num_layers,
        num_heads=SMALL.num_heads,
        num_classes=0,
        fc_norm=False,
        **options,
    ).eval()


@pytest.mark.parametrize("pooling", TIMM_POOLINGS)
def test_equals_timm(timm, randomize, random_image, pooling):
    import torch

    reference = timm_model(timm, global_pool=TIMM_POOLINGS[pooling])
    params = vit_from_timm(randomize(reference), channels=3)
    image = random_image(2, 48, 32, 3)
    with torch.no_grad():
        tokens = reference.forward_features(torch.from_numpy(image).permute(0, 3, 1, 2))
        features = reference.forward_head(tokens)
    model = dataclasses.replace(SMALL, pooling=pooling)
    ours = model.apply({"params": params}, image, train=False)
    np.testing.assert_allclose(ours.grid, tokens[:, 1:].reshape(2, 3, 2, 24), atol=1e-5)
    np.testing.assert_allclose(ours.features, features, atol=1e-5)


def test_one_channel_equals_repeated_grey(timm, randomize, random_image):
    state_dict = randomize(timm_model(timm))
    image = random_image(2, 48, 32, 1)
    one = SMALL.apply({"params": vit_from_timm(state_dict, channels=1)}, image, train=False)
    three = SMALL.apply(
        {"params": vit_from_timm(state_dict, channels=3)}, image.repeat(3, axis=-1), train=False
    )
    np.testing.assert_allclose(one.features, three.features, atol=1e-5)


def test_equals_huggingface(transformers, randomize, random_image, tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.numpy")
    config = transformers.ViTConfig(
        hidden_size=SMALL.hidden_size,
        num_hidden_layers=SMALL.num_layers,
        num_attention_heads=SMALL.num_heads,
        intermediate_size=4 * SMALL.hidden_size,
        image_size=32,
    )
    reference = transformers.ViTModel(config).eval()
    randomize(reference)
    reference.save_pretrained(tmp_path)
    state_dict = safetensors.load_file(tmp_path / "model.safetensors")
    image = random_image(2, 32, 32, 3)
    with torch.no_grad():
        expected = reference(torch.from_numpy(image).permute(0, 3, 1, 2)).last_hidden_state
    model = dataclasses.replace(SMALL, epsilon=1e-12)
    params = vit_from_huggingface(state_dict, channels=3)
    ours = model.apply({"params": params}, image, train=False)
    np.testing.assert_allclose(ours.features, expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(ours.grid.reshape(2, 4, 24), expected[:, 1:], atol=1e-5)


def test_number_of_parameters_of_vit_base(count_parameters):
    assert count_parameters(BASE, jnp.zeros((1, 224, 224, 3)), train=False) == 85_798_656


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_sizes_are_timms(timm, count_parameters, name):
    import torch

    with torch.device("meta"):
        reference = timm.create_model(f"vit_{name}_patch16_224", num_classes=0)
    expected = sum(parameter.numel() for parameter in reference.parameters())
    model = IMAGE_ENCODERS[f"vit_{name}"](base_config().image_encoder, 224, jnp.float32)
    assert count_parameters(model, jnp.zeros((1, 224, 224, 3)), train=False) == expected
    assert model.num_heads == reference.blocks[0].attn.num_heads


def test_remat_changes_nothing(make_variables, count_remats, random_image):
    image = random_image(2, 32, 32, 1)
    remat = dataclasses.replace(SMALL, remat=True)
    params = make_variables(SMALL, image, train=False)["params"]

    def loss(params, model):
        return (model.apply({"params": params}, image, train=True).grid ** 3).mean()

    assert count_remats(lambda p: loss(p, SMALL), params) == 0
    assert count_remats(lambda p: loss(p, remat), params) == SMALL.num_layers
    evaluate = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        evaluate(params, SMALL),
        evaluate(params, remat),
    )


def test_bfloat16_is_close_and_keeps_parameters_in_float32(make_variables, random_image):
    image = random_image(2, 32, 32, 1)
    half = dataclasses.replace(SMALL, dtype=jnp.bfloat16)
    variables = make_variables(half, image, train=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    ours = half.apply(variables, image, train=False).grid
    assert ours.dtype == jnp.bfloat16
    expected = SMALL.apply(variables, image, train=False).grid
    assert 0 < np.abs(ours.astype(jnp.float32) - expected).mean() < 0.02


def test_initialisation_follows_timm(random_image):
    model = dataclasses.replace(SMALL, num_layers=0)
    params = model.init(jax.random.key(0), random_image(1, 128, 128, 1), train=False)["params"]
    positions = params["position_embedding"]
    assert positions.shape == (1, 65, 24)
    assert float(positions.std()) == pytest.approx(0.88 * 0.02, rel=0.05)
    assert 0 < float(jnp.abs(params["cls_token"]).max()) < 1e-5
