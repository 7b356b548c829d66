"""XLA's and cuDNN's attention: against a NumPy reference, each other, and which one is chosen."""

import types
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.config import base_config
from medclip_jax.errors import UserError
from medclip_jax.models.factory import build_model
from medclip_jax.models.layers import MultiHeadAttention, attend
from medclip_jax.models.parts import cudnn_obstacle
from medclip_jax.models.scan import apply_layers
from medclip_jax.models.vit import PreNormLayer

BATCH, LENGTH, HEADS, CHANNELS = 3, 7, 2, 16
MASKS = {
    "none": None,
    "prefix": np.arange(LENGTH) < np.array([[7], [4], [1]]),
    "scattered": np.array(
        [[1, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1], [0, 1, 1, 1, 1, 1, 0]], bool
    ),
}
HOPPER = {"platform": "gpu", "device_kind": "NVIDIA H100", "compute_capability": "9.0"}


def fake_device(**changes):
    return types.SimpleNamespace(**(HOPPER | changes))


class Layers(nn.Module):
    """A transformer without anything around its layers."""

    num_layers: int
    remat: bool = False
    remat_policy: str = "nothing"
    scan_layers: bool = False
    attention: str = "xla"

    @nn.compact
    def __call__(self, x, mask=None):
        layer = partial(PreNormLayer, HEADS, dtype=x.dtype, attention=self.attention)
        return apply_layers(self, layer, x, mask, deterministic=True)


def draw(seed=0):
    shape = (3, BATCH, LENGTH, HEADS, CHANNELS)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def reference(query, key, value, mask):
    """Attention query by query, over the keys that are in view alone, in float64."""
    result = np.zeros(query.shape)
    for row in range(BATCH):
        seen = slice(None) if mask is None else mask[row]
        for head in range(HEADS):
            keys, values = key[row, seen, head], value[row, seen, head]
            logits = query[row, :, head].astype(np.float64) @ keys.T / np.sqrt(CHANNELS)
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            result[row, :, head] = weights / weights.sum(axis=1, keepdims=True) @ values
    return result


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_xla_equals_numpy(mask):
    query, key, value = draw()
    ours = attend(query, key, value, mask, "xla")
    np.testing.assert_allclose(ours, reference(query, key, value, mask), atol=1e-5)


@pytest.fixture
def cudnn_calls(monkeypatch):
    """Lets XLA compute what cuDNN is asked for, and lists what it was asked."""
    calls, original = [], jax.nn.dot_product_attention

    def stand_in(query, key, value, *, implementation, **options):
        given = {name for name in options if options[name] is not None}
        calls.append((implementation, query.shape[1], given))
        return original(query, key, value, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    return calls


@pytest.mark.parametrize("name", ["none", "prefix"])
def test_cudnn_is_asked_for_lengths_that_mean_the_mask(cudnn_calls, name):
    query, key, value = draw()
    mask = MASKS[name]
    ours = attend(query, key, value, mask, "cudnn")
    asked = set() if mask is None else {"key_value_seq_lengths"}
    assert cudnn_calls == [("cudnn", LENGTH, asked)]
    np.testing.assert_allclose(ours, reference(query, key, value, mask), atol=1e-5)


def test_cudnn_without_any_key_is_asked_for_one(cudnn_calls):
    mask = np.zeros((BATCH, LENGTH), bool)
    query, key, value = draw()
    ours = attend(query, key, value, mask, "cudnn")
    np.testing.assert_allclose(ours, np.repeat(value[:, :1], LENGTH, axis=1), atol=1e-6)


@pytest.mark.parametrize("length", [LENGTH, LENGTH - 1])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_transformers_arrange_their_tokens_for_cudnn(cudnn_calls, make_variables, mask, length):
    """Tokens in view first, and an even number of them; outputs and gradients are the same."""
    mask = None if mask is None else mask[:, :length]
    x = draw()[0].reshape(BATCH, LENGTH, -1)[:, :length]
    xla = Layers(num_layers=2)
    variables = make_variables(xla, x, mask)
    # What is out of view is read by nobody.
    seen = np.ones((BATCH, length), bool) if mask is None else mask

    def total(inputs, model):
        outputs = model.apply(*inputs, mask)
        return jnp.mean(jnp.sin(outputs[seen])), outputs[seen]

    cudnn_calls.clear()
    evaluate = jax.value_and_grad(total, has_aux=True)
    expected = evaluate((variables, x), xla)
    assert {implementation for implementation, _, _ in cudnn_calls} == {"xla"}
    for scan_layers in (False, True):
        cudnn_calls.clear()
        ours = evaluate((variables, x), xla.clone(attention="cudnn", scan_layers=scan_layers))
        for implementation, tokens, given in cudnn_calls:
            assert (implementation, tokens) == ("cudnn", length + length % 2)
            assert given <= {"key_value_seq_lengths"}
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, expected)


def test_dropped_weights_are_never_cudnns(cudnn_calls):
    model = MultiHeadAttention(num_heads=2, dropout_rate=0.3, attention="cudnn")
    x, keys = draw()[0].reshape(BATCH, LENGTH, -1), {"dropout": jax.random.key(0)}
    variables = model.init(jax.random.key(0), x)
    cudnn_calls.clear()
    model.apply(variables, x, None, False, rngs=keys)
    assert not cudnn_calls
    model.apply(variables, x, None, True)
    assert len(cudnn_calls) == 1


@pytest.mark.parametrize(
    ("changes", "dtype", "head_size", "words"),
    [
        ({}, jnp.bfloat16, 64, None),
        ({}, jnp.float16, 128, None),
        ({"compute_capability": "8.0"}, jnp.bfloat16, 8, None),
        ({"compute_capability": "12.0"}, jnp.bfloat16, 64, None),
        ({}, jnp.float32, 64, "float32"),
        ({}, jnp.bfloat16, 12, "12 channels"),
        ({}, jnp.bfloat16, 136, "136 channels"),
        ({"compute_capability": "7.5"}, jnp.bfloat16, 64, "7.5"),
        ({"compute_capability": "gfx942"}, jnp.bfloat16, 64, "no NVIDIA GPU"),
        ({"platform": "tpu", "device_kind": "TPU v4"}, jnp.bfloat16, 64, "TPU v4"),
    ],
)
def test_what_keeps_from_cudnn(changes, dtype, head_size, words):
    obstacle = cudnn_obstacle(fake_device(**changes), dtype, head_size)
    assert obstacle is None if words is None else words in obstacle


def test_the_cpu_has_no_cudnn():
    cpu = jax.devices("cpu")[0]
    assert "cpu" in cudnn_obstacle(cpu, jnp.bfloat16, 64)


@pytest.fixture
def config():
    config = base_config()
    config.compute_dtype = "bfloat16"
    config.augmentation.crop_size = 64
    config.image_encoder.name = "vit_tiny"
    config.text_encoder.update(num_layers=1, dropout_rate=0.0)
    config.fusion.num_layers = 1
    return config


def chosen(config):
    model = build_model(config, 99)
    return {module.attention for module in (model.image_encoder, model.text_encoder, model.fusion)}


def test_auto_is_cudnn_where_it_can_be_had(config, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [fake_device()])
    assert chosen(config) == {"cudnn"}
    config.text_encoder.dropout_rate = 0.1  # evaluation has no dropout
    assert chosen(config) == {"cudnn"}
    config.attention = "xla"
    assert chosen(config) == {"xla"}
    config.attention, config.compute_dtype = "auto", "float32"
    assert chosen(config) == {"xla"}
    monkeypatch.setattr(jax, "local_devices", lambda: [fake_device(platform="cpu")])
    config.compute_dtype = "bfloat16"
    assert chosen(config) == {"xla"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"compute_dtype": "float32"}, ["image_encoder", "compute_dtype", "bfloat16", "auto"]),
        ({"text_encoder.dropout_rate": 0.1}, ["text_encoder.dropout_rate", "0.1", "auto"]),
        ({"fusion.num_heads": 2}, ["fusion", "192 channels", "auto"]),
        ({"attention": "flash"}, ["attention", "flash", "auto, xla, cudnn"]),
    ],
)
def test_cudnn_that_cannot_be_had_is_one_clear_line(config, monkeypatch, changes, words):
    monkeypatch.setattr(jax, "local_devices", lambda: [fake_device()])
    config.attention = "cudnn"
    assert chosen(config) == {"cudnn"}
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as raised:
        build_model(config, 99)
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message


GPU = jax.local_devices()[0]


@pytest.mark.skipif(
    bool(cudnn_obstacle(GPU, jnp.bfloat16, CHANNELS)), reason=f"no cuDNN on a {GPU.device_kind}"
)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_cudnn_equals_xla(make_variables, mask):
    """A transformer's outputs and gradients, to what bfloat16's eight bits allow."""
    x = jnp.asarray(draw()[0].reshape(BATCH, LENGTH, -1), jnp.bfloat16)
    model = Layers(num_layers=2)
    variables = make_variables(model, x, mask)
    seen = np.ones((BATCH, LENGTH), bool) if mask is None else mask

    def total(variables, attention):
        outputs = model.clone(attention=attention).apply(variables, x, mask).astype(jnp.float32)
        return jnp.mean(jnp.sin(outputs[seen])), outputs[seen]

    (_, xla), xla_gradient = jax.value_and_grad(total, has_aux=True)(variables, "xla")
    (_, cudnn), cudnn_gradient = jax.value_and_grad(total, has_aux=True)(variables, "cudnn")
    np.testing.assert_allclose(cudnn, xla, atol=0.1)
    for ours, expected in zip(*map(jax.tree.leaves, (cudnn_gradient, xla_gradient)), strict=True):
        assert np.linalg.norm(ours - expected) <= 0.03 * np.linalg.norm(expected) + 1e-4
