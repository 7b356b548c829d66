"""Models built from configs: every name builds what it says, every mistake is a clear error."""

import jax.numpy as jnp
import pytest

from medclip_jax.config import base_config
from medclip_jax.errors import UserError
from medclip_jax.models.factory import build_model


@pytest.fixture
def config():
    config = base_config()
    config.augmentation.crop_size = 64
    return config


def test_config_reaches_the_modules(config):
    config.image_encoder.update(name="resnet18", width=8, channels=3, pooling="max", remat=True)
    config.text_encoder.update(
        hidden_size=24,
        num_layers=3,
        num_heads=2,
        intermediate_size=40,
        max_position_embeddings=70,
        max_length=50,
        pooling="mean",
        dropout_rate=0.25,
        remat=True,
    )
    config.projection.update(size=12, kind="linear", bias=False)
    config.temperature.update(init=0.3, learnable=False)
    config.sigmoid_bias, config.objectives.sigmoid_contrastive.weight = -5.0, 1.0
    config.compute_dtype = "bfloat16"
    model = build_model(config, 99)
    image_encoder, text_encoder = model.image_encoder, model.text_encoder
    assert (image_encoder.blocks, image_encoder.bottleneck) == ((2, 2, 2, 2), False)
    assert (image_encoder.width, image_encoder.pooling, image_encoder.remat) == (8, "max", True)
    assert (text_encoder.vocab_size, text_encoder.hidden_size) == (99, 24)
    assert (text_encoder.num_layers, text_encoder.num_heads) == (3, 2)
    assert (text_encoder.intermediate_size, text_encoder.max_position_embeddings) == (40, 70)
    assert (text_encoder.dropout_rate, text_encoder.remat) == (0.25, True)
    assert (model.text_pooling, model.image_channels) == ("mean", 3)
    assert (model.initial_temperature, model.learn_temperature) == (0.3, False)
    assert model.initial_bias == -5.0
    for projection in (model.image_projection, model.text_projection):
        assert (projection.size, projection.nonlinear, projection.use_bias) == (12, False, False)
    for module in (image_encoder, text_encoder, model.image_projection, model.text_projection):
        assert module.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "name, expected",
    [
        ("vit_tiny", {"hidden_size": 192, "num_layers": 12, "num_heads": 3}),
        ("vit_small", {"hidden_size": 384, "num_layers": 12, "num_heads": 6}),
        ("vit_base", {"hidden_size": 768, "num_layers": 12, "num_heads": 12}),
        ("resnet50", {"blocks": (3, 4, 6, 3), "bottleneck": True, "width": 64}),
    ],
)
def test_named_image_encoders(config, name, expected):
    config.image_encoder.name = name
    encoder = build_model(config, 99).image_encoder
    assert {key: getattr(encoder, key) for key in expected} == expected
    assert encoder.dtype == jnp.float32


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"image_encoder.name": "resnet19"}, ["resnet19", "resnet18", "resnet50", "vit_tiny"]),
        ({"text_encoder.name": "gpt"}, ["text_encoder.name", "gpt", "bert"]),
        ({"projection.kind": "cubic"}, ["projection.kind", "linear", "nonlinear"]),
        ({"compute_dtype": "float16"}, ["compute_dtype", "float32", "bfloat16"]),
        ({"text_encoder.pooling": "sum"}, ["text_encoder.pooling", "max", "mean", "cls"]),
        ({"image_encoder.pooling": "cls"}, ["image_encoder.pooling", "mean", "max"]),
        ({"image_encoder.channels": 2}, ["image_encoder.channels", "1", "3"]),
        ({"temperature.init": 0.0}, ["temperature.init"]),
        (
            {"image_encoder.name": "vit_tiny", "augmentation.crop_size": 100},
            ["augmentation.crop_size 100", "16"],
        ),
        ({"image_encoder.name": "vit_tiny", "image_encoder.pooling": "sum"}, ["cls"]),
        ({"text_encoder.max_length": 600}, ["600", "512"]),
        ({"text_encoder.num_heads": 5}, ["768", "5"]),
    ],
)
def test_mistakes_are_one_clear_line(config, changes, words):
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as raised:
        build_model(config, 99)
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message
