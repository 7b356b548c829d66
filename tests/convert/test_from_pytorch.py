"""The name tables, both ways, and what is refused; parity of outputs is in tests/models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.convert import from_pytorch
from medclip_jax.convert.from_pytorch import (
    HUGGINGFACE_BERT,
    HUGGINGFACE_VIT,
    TIMM_VIT,
    TORCHVISION_RESNET,
    bert_from_huggingface,
    resnet_from_torchvision,
    translate_name,
    vit_from_huggingface,
    vit_from_timm,
)
from medclip_jax.convert.to_pytorch import family_state_dict
from medclip_jax.errors import UserError
from medclip_jax.models.bert import Bert
from medclip_jax.models.resnet import ResNet
from medclip_jax.models.vit import VisionTransformer

IMAGE = jnp.zeros((1, 32, 32, 3))
TOKENS = (jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool))
BERT = Bert(vocab_size=11, hidden_size=8, num_layers=12, num_heads=2, intermediate_size=10)
VIT = VisionTransformer(hidden_size=8, num_layers=12, num_heads=2)


def random_variables(module, *arguments, **options):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments, **options))
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: generator.standard_normal(leaf.shape).astype(np.float32), shapes
    )


@pytest.mark.parametrize("blocks, bottleneck", [((2, 2, 2, 2), False), ((3, 4, 6, 3), True)])
def test_resnet_round_trip(blocks, bottleneck):
    model = ResNet(blocks=blocks, bottleneck=bottleneck, width=4)
    variables = random_variables(model, IMAGE, train=False)
    state_dict = family_state_dict(TORCHVISION_RESNET, variables)
    assert state_dict["layer2.0.downsample.0.weight"].ndim == 4
    converted = resnet_from_torchvision(state_dict, channels=3)
    jax.tree.map(np.testing.assert_array_equal, converted, variables)


@pytest.mark.parametrize(
    "table, convert", [(TIMM_VIT, vit_from_timm), (HUGGINGFACE_VIT, vit_from_huggingface)]
)
def test_vit_round_trip(table, convert):
    params = random_variables(VIT, IMAGE, train=False)["params"]
    converted = convert(family_state_dict(table, params), channels=3)
    jax.tree.map(np.testing.assert_array_equal, converted, params)


def test_bert_round_trip():
    params = random_variables(BERT, *TOKENS, deterministic=True)["params"]
    state_dict = family_state_dict(HUGGINGFACE_BERT, params)
    assert state_dict["encoder.layer.11.attention.self.query.weight"].shape == (8, 8)
    jax.tree.map(np.testing.assert_array_equal, bert_from_huggingface(state_dict), params)


def test_query_key_and_value_are_cut_in_timms_order():
    weight = np.arange(12 * 4, dtype=np.float32).reshape(12, 4)
    attention = vit_from_timm({"blocks.5.attn.qkv.weight": weight}, channels=1)["layer_5"]
    for index, name in enumerate(("query", "key", "value")):
        part = weight[4 * index : 4 * (index + 1)]
        np.testing.assert_array_equal(attention["attention"][name]["kernel"], part.T)


def test_old_and_prefixed_names_of_bert():
    gamma, beta = np.ones(3, np.float32), np.zeros(3, np.float32)
    converted = bert_from_huggingface(
        {
            "bert.encoder.layer.2.output.LayerNorm.gamma": gamma,
            "bert.encoder.layer.2.output.LayerNorm.beta": beta,
            "bert.pooler.dense.weight": gamma,
            "bert.embeddings.position_ids": np.arange(3),
            "cls.predictions.transform.LayerNorm.gamma": gamma,
        }
    )
    assert jax.tree.map(np.shape, converted) == {
        "layer_2": {"mlp_norm": {"scale": (3,), "bias": (3,)}}
    }


def test_heads_and_counters_are_left_out():
    arrays = dict.fromkeys(["fc.weight", "fc.bias", "bn1.num_batches_tracked"], np.ones(3))
    assert resnet_from_torchvision(arrays, channels=3) == {}
    assert vit_from_timm(dict.fromkeys(["head.weight"], np.ones(3)), channels=3) == {}


@pytest.mark.parametrize(
    "convert, name",
    [
        (lambda s: resnet_from_torchvision(s, channels=3), "layer1.0.se.weight"),
        (lambda s: resnet_from_torchvision(s, channels=3), "layer1.x.conv1.weight"),
        (lambda s: vit_from_timm(s, channels=3), "blocks.0.ls1.gamma"),
        (lambda s: vit_from_huggingface(s, channels=3), "vit.layers.0.mlp.fc1.weight"),
        (bert_from_huggingface, "bert.encoder.layer.0.attention.self.distance.weight"),
    ],
)
def test_an_unknown_key_is_named(convert, name):
    with pytest.raises(UserError, match=name.removeprefix("vit.").removeprefix("bert.")):
        convert({name: np.ones((2, 2), np.float32)})


def test_three_channels_fold_into_one():
    kernel = np.random.default_rng(0).standard_normal((2, 3, 7, 7)).astype(np.float32)
    stem = resnet_from_torchvision({"conv1.weight": kernel}, channels=1)["params"]["stem_conv"]
    expected = kernel.sum(axis=1).transpose(1, 2, 0)[:, :, None]
    np.testing.assert_allclose(stem["kernel"], expected, atol=1e-6)


def test_one_channel_does_not_unfold():
    with pytest.raises(UserError, match="1 image channels.*set image_encoder.channels to 1"):
        resnet_from_torchvision({"conv1.weight": np.ones((2, 1, 7, 7))}, channels=3)


def test_half_precision_becomes_float32():
    params = vit_from_timm({"norm.weight": np.ones(3, np.float16)}, channels=1)
    assert params["norm"]["scale"].dtype == np.float32


def test_numbers_are_translated_and_other_names_are_not():
    source, target = "blocks.{layer}.norm1.bias", "layer_{layer}/attention_norm/bias"
    assert translate_name("blocks.10.norm1.bias", source, target) == "layer_10/attention_norm/bias"
    assert translate_name("layer_10/attention_norm/bias", target, source) == "blocks.10.norm1.bias"
    assert translate_name("blocks.x.norm1.bias", source, target) is None
    assert translate_name("blocks.1.norm1.bias.more", source, target) is None
    assert translate_name("blocks.1.norm1_bias", source, target) is None


def test_documented_examples():
    import doctest

    assert doctest.testmod(from_pytorch).attempted > 0
    assert doctest.testmod(from_pytorch).failed == 0
