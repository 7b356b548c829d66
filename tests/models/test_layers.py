"""The shared layers against PyTorch's own, and attention with dropout."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.models.layers import BatchNorm, Mlp, MultiHeadAttention, locked_norms


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


MASK = np.arange(6) < np.array([[6], [4], [1]])


def test_attention_equals_torch(make_variables):
    torch = pytest.importorskip("torch")
    model, x = MultiHeadAttention(num_heads=2), draw(3, 6, 8)
    params = make_variables(model, x)["params"]
    reference = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    names = ("query", "key", "value")
    with torch.no_grad():
        for leaf, target in (("kernel", "in_proj_weight"), ("bias", "in_proj_bias")):
            stacked = np.concatenate([params[name][leaf].T for name in names])
            getattr(reference, target).copy_(torch.from_numpy(stacked))
        reference.out_proj.weight.copy_(torch.from_numpy(params["output"]["kernel"].T.copy()))
        reference.out_proj.bias.copy_(torch.from_numpy(params["output"]["bias"]))
        x_torch = torch.from_numpy(x)
        padding = torch.from_numpy(~MASK)
        expected, _ = reference(x_torch, x_torch, x_torch, key_padding_mask=padding)
        expected_unmasked, _ = reference(x_torch, x_torch, x_torch)
    np.testing.assert_allclose(model.apply({"params": params}, x, MASK), expected, atol=1e-5)
    np.testing.assert_allclose(model.apply({"params": params}, x), expected_unmasked, atol=1e-5)


def test_attention_without_any_key_is_finite(make_variables):
    model, x = MultiHeadAttention(num_heads=2), draw(2, 6, 8)
    mask = np.zeros((2, 6), bool)
    variables = make_variables(model, x)
    gradient = jax.grad(lambda x: model.apply(variables, x, mask).sum())(x)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("mask", [None, MASK])
def test_attention_with_dropout_tends_to_that_without(make_variables, mask):
    """The two computations agree where (almost) nothing is dropped."""
    x = draw(3, 6, 8)
    model = MultiHeadAttention(num_heads=2, dropout_rate=1e-7)
    variables = make_variables(model, x)
    dropped = model.apply(variables, x, mask, False, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(dropped, model.apply(variables, x, mask), atol=1e-6)


def test_attention_drops_weights_without_bias(make_variables):
    """Over many keys the output averages to that without dropout; one draw does not equal it."""
    x = draw(2, 6, 8)
    model = MultiHeadAttention(num_heads=2, dropout_rate=0.3)
    variables = make_variables(model, x)

    def encode(key):
        return model.apply(variables, x, None, False, rngs={"dropout": key})

    outputs = jax.jit(jax.vmap(encode))(jax.random.split(jax.random.key(0), 4000))
    expected = model.apply(variables, x)
    assert np.abs(outputs[0] - expected).max() > 0.05
    standard_error = outputs.std(axis=0) / np.sqrt(len(outputs))
    assert np.abs((outputs.mean(axis=0) - expected) / standard_error).max() < 4.5


def test_mlp_has_the_exact_gelu(make_variables):
    from scipy.special import erf

    model, x = Mlp(hidden_size=5), draw(4, 3)
    params = make_variables(model, x)["params"]
    hidden = x @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
    expected = hidden @ params["output"]["kernel"] + params["output"]["bias"]
    np.testing.assert_allclose(model.apply({"params": params}, x), expected, atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm_equals_torch(make_variables, train):
    torch = pytest.importorskip("torch")
    model, x = BatchNorm(), 3 * draw(2, 3, 2, 5) + 1
    variables = make_variables(model, x, train=False)
    params, statistics = variables["params"], variables["batch_stats"]
    reference = torch.nn.BatchNorm2d(5).train(train)
    state = {
        "weight": params["scale"],
        "bias": params["bias"],
        "running_mean": statistics["mean"],
        "running_var": statistics["var"],
    }
    reference.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=False)
    expected = reference(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    ours, updated = model.apply(variables, x, train=train, mutable=["batch_stats"])
    np.testing.assert_allclose(ours, expected.detach(), atol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], reference.running_mean, atol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], reference.running_var, atol=1e-6)


def test_batch_norm_of_the_rows_that_count_is_that_of_these_rows_alone(make_variables):
    model, x = BatchNorm(), 3 * draw(6, 3, 2, 5) + 1
    variables = make_variables(model, x, train=False)
    mask = np.array([True, False, True, True, False, False])
    alone, expected = model.apply(variables, x[mask], train=True, mutable=["batch_stats"])
    y, updated = model.apply(variables, x, train=True, mask=mask, mutable=["batch_stats"])
    np.testing.assert_allclose(y[mask], alone, atol=1e-5)
    for name, statistic in expected["batch_stats"].items():
        np.testing.assert_allclose(updated["batch_stats"][name], statistic, atol=1e-6)

    def of_counting(x):
        y, _ = model.apply(variables, x, train=True, mask=mask, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y[mask]))

    gradient = jax.grad(of_counting)(x)
    assert np.abs(gradient[mask]).max() > 0.1
    np.testing.assert_array_equal(gradient[~mask], 0)


def test_batch_norm_without_a_row_that_counts_keeps_its_statistics(make_variables):
    model, x = BatchNorm(), 3 * draw(4, 3, 5) + 1
    variables = make_variables(model, x, train=False)
    y, updated = model.apply(
        variables, x, train=True, mask=np.zeros(4, bool), mutable=["batch_stats"]
    )
    np.testing.assert_array_equal(y, model.apply(variables, x, train=False))
    for name, statistic in variables["batch_stats"].items():
        np.testing.assert_array_equal(updated["batch_stats"][name], statistic)


def test_locked_norms_equal_torchs_in_evaluation(make_variables):
    """Those of which all parameters are frozen; the others are normalised by the batch."""
    torch = pytest.importorskip("torch")
    x = 3 * draw(2, 3, 2, 5) + 1

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return BatchNorm(name="first")(x, train=train), BatchNorm(name="second")(x, train)

    variables = make_variables(Network(), x, False)
    frozen = {"first/scale", "first/bias", "second/scale"}
    with locked_norms(frozen):
        outputs, updated = Network().apply(variables, x, True, mutable=["batch_stats"])
    for name, output in zip(("first", "second"), outputs, strict=True):
        reference = torch.nn.BatchNorm2d(5).train(name == "second")
        state = {
            "weight": variables["params"][name]["scale"],
            "bias": variables["params"][name]["bias"],
            "running_mean": variables["batch_stats"][name]["mean"],
            "running_var": variables["batch_stats"][name]["var"],
        }
        reference.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=False)
        expected = reference(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        np.testing.assert_allclose(output, expected.detach(), atol=1e-5)
        statistics = updated["batch_stats"][name]
        np.testing.assert_allclose(statistics["mean"], reference.running_mean, atol=1e-6)
        np.testing.assert_allclose(statistics["var"], reference.running_var, atol=1e-6)


def test_batch_norm_starts_from_the_unit_statistics():
    x = 3 * draw(2, 3, 2, 5) + 1
    statistics = BatchNorm().init(jax.random.key(0), x, train=True)["batch_stats"]
    np.testing.assert_array_equal(statistics["mean"], np.zeros(5))
    np.testing.assert_array_equal(statistics["var"], np.ones(5))


def test_batch_norm_computes_statistics_in_float32(make_variables):
    x = jnp.asarray(draw(64, 4) + 100, jnp.bfloat16)
    model = BatchNorm(dtype=jnp.bfloat16)
    variables = make_variables(model, x, train=False)
    y, updated = model.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64).mean(axis=0)
    expected = 0.9 * variables["batch_stats"]["mean"] + 0.1 * exact
    np.testing.assert_allclose(updated["batch_stats"]["mean"], expected, rtol=1e-5)
