"""Attention with given keys and values, against PyTorch's, and with dropout."""

import jax
import numpy as np
import pytest

from medclip_jax.models.cached_attention import CachedAttention

# Three queries and six keys; the first query of the second row sees only its first key.
MASK = np.arange(6) < np.array([[[6], [4], [2]], [[1], [6], [3]]])


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def attend(module, x, source, mask=None, deterministic=True):
    keys, values = module.keys_values(source)
    return module(x, keys, values, mask, deterministic=deterministic)


@pytest.fixture
def model():
    return CachedAttention(hidden_size=8, num_heads=2, dropout_rate=0.3)


@pytest.fixture
def variables(model, make_variables):
    return make_variables(model, draw(2, 3, 8), draw(2, 6, 8), method=attend)


@pytest.mark.parametrize("mask", [None, MASK])
def test_equals_torch(model, variables, mask):
    torch = pytest.importorskip("torch")
    params, x, source = variables["params"], draw(2, 3, 8), draw(2, 6, 8, seed=1)
    reference = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    kernels = [params[name]["kernel"].T for name in ("query", "key", "value")]
    # PyTorch's keys have a bias; whatever it is, it changes nothing.
    biases = [params["query"]["bias"], draw(8, seed=2), params["value"]["bias"]]
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.from_numpy(np.concatenate(kernels)))
        reference.in_proj_bias.copy_(torch.from_numpy(np.concatenate(biases)))
        reference.out_proj.weight.copy_(torch.from_numpy(params["output"]["kernel"].T.copy()))
        reference.out_proj.bias.copy_(torch.from_numpy(params["output"]["bias"]))
        torch_source = torch.from_numpy(source)
        hidden = None if mask is None else torch.from_numpy(np.repeat(~mask, 2, axis=0))
        expected, _ = reference(torch.from_numpy(x), torch_source, torch_source, attn_mask=hidden)
    ours = model.apply(variables, x, source, mask, method=attend)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_attention_without_any_key_is_finite(model, variables):
    mask = np.zeros((2, 3, 6), bool)

    def total(x):
        return model.apply(variables, x, draw(2, 6, 8), mask, method=attend).sum()

    assert np.isfinite(jax.grad(total)(draw(2, 3, 8))).all()


def test_drops_weights_without_bias(model, variables):
    """Over many draws the output averages to that without dropout; one draw does not equal it."""
    x, source = draw(2, 3, 8), draw(2, 6, 8, seed=1)

    def attend_with(key):
        rngs = {"dropout": key}
        return model.apply(variables, x, source, None, False, method=attend, rngs=rngs)

    outputs = jax.jit(jax.vmap(attend_with))(jax.random.split(jax.random.key(0), 4000))
    expected = model.apply(variables, x, source, method=attend)
    assert np.abs(outputs[0] - expected).max() > 0.05
    standard_error = outputs.std(axis=0) / np.sqrt(len(outputs))
    assert np.abs((outputs.mean(axis=0) - expected) / standard_error).max() < 4.5
