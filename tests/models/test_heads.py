"""Heads and normalisation against NumPy, the masked language head against Hugging Face."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.models.heads import (
    MaskedLanguageHead,
    MatchingHead,
    PixelHead,
    ProjectionHead,
    normalize,
    pair_features,
)

FEATURES = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)


def test_nonlinear_head_is_convirts(make_variables):
    head = ProjectionHead(size=4)
    params = make_variables(head, FEATURES)["params"]
    hidden, output = params["hidden"], params["output"]
    assert hidden["kernel"].shape == (6, 6)
    expected = np.maximum(FEATURES @ hidden["kernel"] + hidden["bias"], 0)
    expected = expected @ output["kernel"] + output["bias"]
    np.testing.assert_allclose(head.apply({"params": params}, FEATURES), expected, atol=1e-6)


def test_linear_head_without_bias_is_one_matrix(make_variables):
    head = ProjectionHead(size=4, nonlinear=False, use_bias=False)
    params = make_variables(head, FEATURES)["params"]
    assert jax.tree.map(np.shape, params) == {"output": {"kernel": (6, 4)}}
    expected = FEATURES @ params["output"]["kernel"]
    np.testing.assert_allclose(head.apply({"params": params}, FEATURES), expected, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_normalize_gives_unit_length(scale):
    lengths = np.linalg.norm(normalize(scale * FEATURES), axis=-1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


def test_normalize_has_the_gradient_of_the_quotient():
    direction = np.arange(6, dtype=np.float32)
    gradient = jax.grad(lambda v: normalize(v) @ direction)(FEATURES[0])
    length = np.linalg.norm(FEATURES[0])
    unit = FEATURES[0] / length
    np.testing.assert_allclose(
        gradient, (direction - unit * (unit @ direction)) / length, atol=1e-5
    )


def test_normalize_is_finite_at_zero():
    value, gradient = jax.value_and_grad(lambda v: normalize(v).sum())(jnp.zeros(6))
    assert float(value) == 0
    assert np.isfinite(gradient).all()


def test_normalize_returns_float32_from_bfloat16():
    normalized = normalize(jnp.asarray(FEATURES, jnp.bfloat16))
    assert normalized.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(normalized, axis=-1), 1, atol=1e-6)


def test_matching_head_is_a_network_with_one_hidden_layer(make_variables):
    head = MatchingHead(hidden_size=5)
    params = make_variables(head, FEATURES)["params"]
    hidden = np.maximum(FEATURES @ params["hidden"]["kernel"] + params["hidden"]["bias"], 0)
    expected = hidden @ params["output"]["kernel"] + params["output"]["bias"]
    logits = head.apply({"params": params}, FEATURES)
    assert logits.shape == (3,)
    np.testing.assert_allclose(logits, expected[:, 0], atol=1e-6)


def test_pair_features_are_infersents():
    features = pair_features(jnp.array([[1.0, -2.0]]), jnp.array([[3.0, 4.0]]))
    np.testing.assert_array_equal(features, [[1, -2, 3, 4, 3, -8, 2, 6]])


def test_masked_language_head_equals_huggingface(transformers, randomize):
    torch = pytest.importorskip("torch")
    from transformers.models.bert.modeling_bert import BertOnlyMLMHead

    config = transformers.BertConfig(vocab_size=11, hidden_size=6)
    reference = BertOnlyMLMHead(config)
    state = randomize(reference)
    transform = "predictions.transform.{}".format
    params = {
        "transform": {
            "kernel": state[transform("dense.weight")].T,
            "bias": state[transform("dense.bias")],
        },
        "norm": {
            "scale": state[transform("LayerNorm.weight")],
            "bias": state[transform("LayerNorm.bias")],
        },
        "bias": state["predictions.bias"],
    }
    reference.predictions.decoder.bias = reference.predictions.bias
    tokens = np.random.default_rng(1).standard_normal((2, 4, 6)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(tokens))
    table = state["predictions.decoder.weight"]
    logits = MaskedLanguageHead().apply({"params": params}, tokens, table)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_masked_language_head_maps_to_the_width_of_the_table(make_variables):
    head, tokens, table = MaskedLanguageHead(), np.ones((2, 4, 8)), np.ones((11, 6))
    variables = make_variables(head, tokens, table)
    assert jax.tree.map(np.shape, variables["params"]) == {
        "transform": {"kernel": (8, 6), "bias": (6,)},
        "norm": {"scale": (6,), "bias": (6,)},
        "bias": (11,),
    }
    gradient = jax.grad(lambda table: head.apply(variables, tokens, table)[0, 0, 3])(table)
    assert np.abs(gradient[3]).max() > 0  # the table learns from both ends
    assert head.apply(variables, tokens, table).shape == (2, 4, 11)


def test_pixel_head_is_one_linear_layer(make_variables):
    head, tokens = PixelHead(num_pixels=4), FEATURES[None]
    params = make_variables(head, tokens)["params"]
    expected = tokens @ params["output"]["kernel"] + params["output"]["bias"]
    np.testing.assert_allclose(head.apply({"params": params}, tokens), expected, atol=1e-6)


@pytest.mark.parametrize(
    "make, arguments",
    [
        (lambda dtype: MatchingHead(5, dtype), (FEATURES,)),
        (lambda dtype: MaskedLanguageHead(dtype=dtype), (FEATURES[None], FEATURES)),
        (lambda dtype: PixelHead(4, dtype), (FEATURES[None],)),
    ],
)
def test_predictions_are_float32_from_bfloat16(make_variables, make, arguments):
    half, full = make(jnp.bfloat16), make(jnp.float32)
    variables = make_variables(half, *arguments)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    ours, expected = half.apply(variables, *arguments), full.apply(variables, *arguments)
    assert ours.dtype == jnp.float32
    assert 0 < np.abs(ours - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(
    "head, arguments",
    [
        (MatchingHead(5), (FEATURES,)),
        (MaskedLanguageHead(), (FEATURES[None], FEATURES)),
        (PixelHead(4), (FEATURES[None],)),
    ],
)
def test_every_parameter_has_a_gradient(make_variables, head, arguments):
    params = make_variables(head, *arguments)["params"]
    gradients = jax.grad(lambda p: (head.apply({"params": p}, *arguments) ** 2).sum())(params)
    assert all(np.abs(gradient).max() > 1e-4 for gradient in jax.tree.leaves(gradients))
