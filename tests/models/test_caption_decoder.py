"""The caption decoder against PyTorch's; what may see what; cached steps against whole texts."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import keystr, tree_leaves_with_path

from medclip_jax.errors import UserError
from medclip_jax.models.caption_decoder import CaptionDecoder, reverse_tokens

DECODER = CaptionDecoder(
    vocab_size=23,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    intermediate_size=24,
    max_length=9,
)
DIRECTIONS = ("caption_logits", "backward_caption_logits")
MASK = np.arange(8) < np.array([[8], [5], [2]])
GRID = np.random.default_rng(0).standard_normal((3, 5, 6)).astype(np.float32)
IDS = np.where(MASK, np.random.default_rng(0).integers(3, 23, (3, 8)), 0).astype(np.int32)


@pytest.fixture
def variables(make_variables):
    return make_variables(DECODER, GRID, IDS, MASK, deterministic=True)


@jax.jit
def apply(variables, grid, ids, mask):
    return DECODER.apply(variables, grid, ids, mask, deterministic=True)


def predict(variables, grid=GRID, ids=IDS, mask=MASK):
    """The logits, always by the same program, so that what is not seen changes not one bit."""
    return apply(variables, grid, ids, mask)


def largest_change(before, after):
    """The largest change of the logits at each row and position."""
    return np.abs(np.asarray(before) - np.asarray(after)).max(axis=-1)


def torch_decoder(layers):
    """PyTorch's decoder with the weights of ours."""
    torch = pytest.importorskip("torch")
    layer = torch.nn.TransformerDecoderLayer(
        DECODER.hidden_size,
        DECODER.num_heads,
        DECODER.intermediate_size,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=False,
    )
    weights = {}
    for index, params in enumerate(layers):
        prefix = f"layers.{index}."
        for ours, theirs in (("self", "self_attn"), ("image", "multihead_attn")):
            attention = params[f"{ours}_attention"]
            parts = [attention[name] for name in ("query", "key", "value")]
            zeros = np.zeros(DECODER.hidden_size, np.float32)
            weights |= {
                f"{prefix}{theirs}.in_proj_weight": np.concatenate([p["kernel"].T for p in parts]),
                f"{prefix}{theirs}.in_proj_bias": np.concatenate(
                    [p.get("bias", zeros) for p in parts]
                ),
                f"{prefix}{theirs}.out_proj.weight": attention["output"]["kernel"].T,
                f"{prefix}{theirs}.out_proj.bias": attention["output"]["bias"],
            }
        for ours, theirs in (("hidden", "linear1"), ("output", "linear2")):
            weights[f"{prefix}{theirs}.weight"] = params["mlp"][ours]["kernel"].T
            weights[f"{prefix}{theirs}.bias"] = params["mlp"][ours]["bias"]
        norms = ("self_attention_norm", "image_attention_norm", "mlp_norm")
        for number, ours in enumerate(norms, start=1):
            weights[f"{prefix}norm{number}.weight"] = params[ours]["scale"]
            weights[f"{prefix}norm{number}.bias"] = params[ours]["bias"]
    reference = torch.nn.TransformerDecoder(layer, len(layers)).eval()
    reference.load_state_dict(
        {name: torch.tensor(np.array(weight)) for name, weight in weights.items()}
    )
    return reference


def torch_logits(params, direction, ids):
    """The logits, with PyTorch in place of our layers, embedding, projection and output."""
    torch = pytest.importorskip("torch")
    words, positions, scale, bias, kernel, image_bias, output_bias = (
        torch.from_numpy(np.array(array))
        for array in (
            params["word_embeddings"]["embedding"],
            params["position_embeddings"]["embedding"],
            params["embedding_norm"]["scale"],
            params["embedding_norm"]["bias"],
            params["image_projection"]["kernel"],
            params["image_projection"]["bias"],
            params["output_bias"],
        )
    )
    ids = torch.from_numpy(np.array(ids)).long()[:, :-1]
    length = ids.shape[1]
    x = words[ids] + positions[:length]
    x = torch.nn.functional.layer_norm(x, (DECODER.hidden_size,), scale, bias, eps=1e-5)
    reference = torch_decoder([params[f"{direction}_layers_{i}"] for i in range(2)])
    with torch.no_grad():
        x = reference(
            x,
            torch.from_numpy(GRID) @ kernel + image_bias,
            tgt_mask=torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1),
            tgt_key_padding_mask=torch.from_numpy(~MASK[:, :-1]),
        )
    return (x @ words.T + output_bias).numpy()


def test_equals_torch(variables):
    outputs, params = predict(variables), variables["params"]
    expected = torch_logits(params, "forward", IDS)
    np.testing.assert_allclose(outputs["caption_logits"], expected, atol=1e-5)
    expected = torch_logits(params, "backward", reverse_tokens(IDS, MASK))
    np.testing.assert_allclose(outputs["backward_caption_logits"], expected, atol=1e-5)
    assert np.abs(expected).max() > 1
    assert outputs["caption_logits"].shape == (3, 7, 23)
    assert {logits.dtype for logits in outputs.values()} == {np.dtype("float32")}


def test_reverse_tokens():
    ids = np.array([[1, 11, 12, 13, 2, 0], [1, 11, 2, 0, 0, 0], [1, 2, 0, 0, 0, 0], [0] * 6])
    expected = [[1, 13, 12, 11, 2, 0], [1, 11, 2, 0, 0, 0], [1, 2, 0, 0, 0, 0], [0] * 6]
    reversed_ids = reverse_tokens(ids, ids > 0)
    np.testing.assert_array_equal(reversed_ids, expected)
    np.testing.assert_array_equal(reverse_tokens(reversed_ids, ids > 0), ids)


def test_backward_is_forward_on_the_reversed_text(variables):
    params = variables["params"]
    swapped = dict(params)
    for index in range(DECODER.num_layers):
        swapped[f"forward_layers_{index}"] = params[f"backward_layers_{index}"]
    reversed_ids = np.asarray(reverse_tokens(IDS, MASK))
    ours = predict({"params": swapped}, ids=reversed_ids)["caption_logits"]
    expected = predict(variables)["backward_caption_logits"]
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert np.abs(expected - predict(variables)["caption_logits"]).max() > 0.1


@pytest.mark.parametrize("changed", [1, 4, 6])
def test_no_token_sees_a_later_one(variables, changed):
    """The first text fills its row, so that backward token 7 - t is forward token t."""
    other_ids = IDS.copy()
    other_ids[0, changed] = 3 if IDS[0, changed] != 3 else 4
    before, after = predict(variables), predict(variables, ids=other_ids)
    for direction, position in zip(DIRECTIONS, (changed, 7 - changed), strict=True):
        change = largest_change(before[direction], after[direction])
        assert change[0, :position].max() == 0
        assert change[0, position:].min() > 1e-3
        assert change[1:].max() == 0


def test_padding_does_not_touch_tokens(variables):
    before, after = predict(variables), predict(variables, ids=np.where(MASK, IDS, 7))
    shorter = DECODER.apply(variables, GRID[1:], IDS[1:, :6], MASK[1:, :6], deterministic=True)
    # What the last token of a text is followed by, nobody asks.
    is_asked = MASK[:, 1:]
    for direction in DIRECTIONS:
        assert largest_change(before[direction], after[direction])[is_asked].max() == 0
        change = largest_change(before[direction][1:, :5], shorter[direction])
        assert change[is_asked[1:, :5]].max() < 1e-5


def test_masked_tokens_are_not_attended_to(variables):
    """Causality hides the padding at the end; the mask hides a token before others too."""
    mask = MASK.copy()
    mask[0, 2] = False
    other_ids = IDS.copy()
    other_ids[0, 2] = 3 if IDS[0, 2] != 3 else 4
    before = predict(variables, mask=mask)["caption_logits"]
    after = predict(variables, ids=other_ids, mask=mask)["caption_logits"]
    change = largest_change(before, after)[0]
    assert change[2] > 1e-3
    assert np.delete(change, 2).max() == 0


def test_every_prediction_sees_the_image(variables):
    """Each cell of it, in any order; no text sees the image of another."""
    before = predict(variables)
    for cell in range(GRID.shape[1]):
        grid = GRID.copy()
        grid[0, cell] += 1
        after = predict(variables, grid=grid)
        for direction in DIRECTIONS:
            change = largest_change(before[direction], after[direction])
            assert change[0].min() > 1e-4
            assert change[1:].max() == 0
    permuted = predict(variables, grid=np.ascontiguousarray(GRID[:, ::-1]))
    np.testing.assert_allclose(permuted["caption_logits"], before["caption_logits"], atol=1e-5)


def test_one_table_embeds_and_predicts(variables):
    params = variables["params"]
    with_vocabulary = [
        keystr(path, simple=True, separator="/")
        for path, leaf in tree_leaves_with_path(params)
        if DECODER.vocab_size in leaf.shape
    ]
    assert sorted(with_vocabulary) == ["output_bias", "word_embeddings/embedding"]


def test_the_forward_decoder_does_not_need_the_backward_one(variables):
    params = variables["params"]
    forward_params = {name: params[name] for name in params if "backward" not in name}
    assert len(forward_params) == len(params) - DECODER.num_layers
    forward_only = dataclasses.replace(DECODER, bidirectional=False)
    outputs = forward_only.apply({"params": forward_params}, GRID, IDS, MASK, deterministic=True)
    assert list(outputs) == ["caption_logits"]
    expected = predict(variables)["caption_logits"]
    np.testing.assert_allclose(outputs["caption_logits"], expected, atol=1e-5)


def test_every_parameter_gets_a_gradient(variables):
    generator = np.random.default_rng(1)
    directions = generator.standard_normal((2, 3, 7, 23)) * MASK[:, 1:, None]

    def loss(params):
        outputs = predict({"params": params})
        return sum(
            (outputs[name] * d).sum() for name, d in zip(DIRECTIONS, directions, strict=True)
        )

    gradients = jax.grad(loss)(variables["params"])
    for path, gradient in tree_leaves_with_path(gradients):
        assert np.abs(gradient).max() > 1e-3, keystr(path)


def test_cached_steps_equal_the_whole_text(variables):
    cache = DECODER.apply(variables, GRID, IDS.shape[1], method="start")
    assert {leaf.shape[0] for leaf in jax.tree.leaves(cache)} == {3}
    step = jax.jit(lambda *arguments: DECODER.apply(variables, *arguments, method="step"))
    expected = np.asarray(predict(variables)["caption_logits"])
    for position in range(IDS.shape[1] - 1):
        logits, cache = step(cache, IDS[:, position], position)
        is_text = MASK[:, position]
        np.testing.assert_allclose(logits[is_text], expected[is_text, position], atol=1e-5)
    assert logits.dtype == np.float32


def test_dropout_follows_its_key(variables):
    @jax.jit
    def predict_dropped(seed):
        rngs = {"dropout": jax.random.key(seed)}
        outputs = DECODER.apply(variables, GRID, IDS, MASK, deterministic=False, rngs=rngs)
        return outputs["caption_logits"]

    np.testing.assert_array_equal(predict_dropped(0), predict_dropped(0))
    assert np.abs(predict_dropped(0) - predict_dropped(1)).max() > 0.1


def test_bfloat16_is_close_and_keeps_parameters_and_logits_in_float32(variables, make_variables):
    half = dataclasses.replace(DECODER, dtype=jnp.bfloat16)
    half_variables = make_variables(half, GRID, IDS, MASK, deterministic=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(half_variables)} == {np.dtype("float32")}
    variables["params"]["output_bias"][:] = 0
    outputs = half.apply(variables, GRID, IDS, MASK, deterministic=True)
    for direction, expected in predict(variables).items():
        logits = outputs[direction]
        assert 0 < np.abs(logits - expected).mean() < 0.02
        is_rounded = logits.astype(jnp.bfloat16).astype(jnp.float32) == logits
        assert logits.dtype == np.float32
        assert is_rounded.mean() < 0.1


def test_softmax_is_float32_in_bfloat16(variables):
    half = dataclasses.replace(DECODER, dtype=jnp.bfloat16)
    program = jax.make_jaxpr(lambda: half.apply(variables, GRID, IDS, MASK, deterministic=True))()
    exponentials = re.findall(r":(\w+)\[[\d,]*\] = exp ", str(program))
    assert set(exponentials) == {"f32"}


def test_a_text_that_is_too_long_is_an_error(variables):
    long = np.ones((3, 10), np.int32)
    with pytest.raises(UserError, match="10 tokens is too long .* max_length 9"):
        DECODER.apply(variables, GRID, long, long > 0, deterministic=True)
    with pytest.raises(UserError, match="10 tokens is too long .* max_length 9"):
        DECODER.apply(variables, GRID, 10, method="start")
