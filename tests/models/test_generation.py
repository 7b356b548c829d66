"""Generation against plain loops, exhaustive search, Hugging Face and known distributions.

Most tests use a toy language model whose grid is a table of logits: row s of it is for the texts
whose state is s, and the state depends on all tokens so far. So a beam with another's cache shows.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.errors import UserError
from medclip_jax.models.caption_decoder import CaptionDecoder
from medclip_jax.models.generation import generate, sample_nucleus

PAD, START, END = 0, 1, 2
SPECIAL = {"start_id": START, "end_id": END, "pad_id": PAD}
NUM_STATES = 31


def toy_start(grid, max_length):
    return {"table": grid, "state": jnp.zeros(len(grid), jnp.int32)}


def toy_step(cache, token_ids, position):
    state = (5 * cache["state"] + 3 * token_ids + position) % NUM_STATES
    logits = cache["table"][jnp.arange(len(state)), state]
    return logits, cache | {"state": state}


def toy_log_probabilities(table, text):
    """Those of the token after `text`, in NumPy."""
    state = 0
    for position, token in enumerate(text):
        state = (5 * state + 3 * token + position) % NUM_STATES
    logits = table[state].astype(np.float64)
    return logits - np.log(np.exp(logits).sum())


def toy_tables(batch, vocab_size, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(0, 1.5, (batch, NUM_STATES, vocab_size)).astype(np.float32)


def greedy_loop(next_logits, max_length):
    """The likeliest token each time, one text, in plain Python."""
    text = [START]
    while len(text) < max_length and text[-1] != END:
        text.append(int(np.argmax(next_logits(text))))
    return text + [PAD] * (max_length - len(text))


def exhaustive_search(table, max_length, length_penalty):
    """The text with the best score of all that end within `max_length`, one after the other."""
    words = [token for token in range(table.shape[1]) if token != END]
    best_score, best_text = -np.inf, None
    for length in range(1, max_length):
        for body in itertools.product(words, repeat=length - 1):
            text = [START, *body, END]
            steps = range(1, length + 1)
            total = sum(toy_log_probabilities(table, text[:step])[text[step]] for step in steps)
            score = total / length**length_penalty
            if score > best_score:
                best_score, best_text = score, text + [PAD] * (max_length - length - 1)
    return best_text


def test_greedy_equals_a_loop():
    tables = toy_tables(40, 7)
    texts = jax.jit(lambda grid: generate(toy_start, toy_step, grid, max_length=9, **SPECIAL))(
        tables
    )
    expected = [
        greedy_loop(lambda text, table=table: toy_log_probabilities(table, text), 9)
        for table in tables
    ]
    np.testing.assert_array_equal(texts, expected)
    assert texts.dtype == np.int32
    lengths = (np.cumsum(np.asarray(texts) == END, axis=1) == 0).sum(axis=1)
    assert set(lengths) >= {1, 2, 3, 9}


def test_beam_search_with_every_beam_is_exhaustive():
    """Of 4 tokens 27 texts run at the last step, so 108 beams hold all there is."""
    tables = toy_tables(12, 4)
    search = jax.jit(
        lambda grid, length_penalty: generate(
            toy_start,
            toy_step,
            grid,
            method="beam",
            num_beams=108,
            length_penalty=length_penalty,
            max_length=5,
            **SPECIAL,
        )
    )
    results = []
    for length_penalty in (-1.0, 0.0, 1.0, 2.0):
        expected = [exhaustive_search(table, 5, length_penalty) for table in tables]
        np.testing.assert_array_equal(search(tables, length_penalty), expected)
        results.append(np.not_equal(expected, PAD).sum(axis=1).mean())
    # The penalty matters: the higher it is, the longer the texts.
    assert results[0] < results[2] < results[3]


@pytest.mark.parametrize("num_beams", [2, 3])
def test_beam_search_equals_huggingface(transformers, num_beams):
    """Where Hugging Face's best text ends; there, a cut text may win against one that ends."""
    import torch

    class ToyModel(transformers.PreTrainedModel, transformers.GenerationMixin):
        config_class = transformers.PretrainedConfig

        def __init__(self, config, table):
            super().__init__(config)
            self.table = torch.nn.Parameter(torch.from_numpy(table))

        def forward(self, input_ids, **_):
            state = torch.zeros(len(input_ids), dtype=torch.long)
            for position, tokens in enumerate(input_ids.T):
                state = (5 * state + 3 * tokens + position) % NUM_STATES
            logits = self.table[state][:, None]
            return transformers.modeling_outputs.CausalLMOutput(logits=logits)

    def search_theirs(table, length_penalty):
        model = ToyModel(transformers.PretrainedConfig(vocab_size=7), table).eval()
        ids = model.generate(
            torch.tensor([[START]]),
            attention_mask=torch.tensor([[1]]),
            num_beams=num_beams,
            length_penalty=length_penalty,
            early_stopping=False,
            do_sample=False,
            use_cache=False,
            max_length=8,
            bos_token_id=START,
            eos_token_id=END,
            pad_token_id=PAD,
        )[0].tolist()
        return ids + [PAD] * (8 - len(ids))

    tables = toy_tables(30, 7, seed=1)
    search = jax.jit(
        lambda grid, length_penalty: generate(
            toy_start,
            toy_step,
            grid,
            method="beam",
            num_beams=num_beams,
            length_penalty=length_penalty,
            max_length=8,
            **SPECIAL,
        )
    )
    for length_penalty in (0.0, 1.0, 1.5):
        theirs = np.array([search_theirs(table, length_penalty) for table in tables])
        has_ended = (theirs == END).any(axis=1)
        assert has_ended.sum() >= 10
        ours = np.asarray(search(tables, length_penalty))
        np.testing.assert_array_equal(ours[has_ended], theirs[has_ended])


def test_beam_search_returns_a_running_text_only_if_none_has_ended():
    tables = toy_tables(8, 4)
    tables[:4, :, END] = -np.inf
    texts = np.asarray(
        generate(toy_start, toy_step, tables, method="beam", num_beams=27, max_length=4, **SPECIAL)
    )
    for table, text in zip(tables[:4], texts[:4], strict=True):
        scores = {
            body: sum(
                toy_log_probabilities(table, [START, *body[:step]])[body[step]] for step in range(3)
            )
            for body in itertools.product((PAD, START, 3), repeat=3)
        }
        assert tuple(text[1:]) == max(scores, key=scores.get)
    assert (texts[4:] == END).any(axis=1).all()


@pytest.mark.parametrize("options", [{"method": "greedy"}, {"method": "beam", "num_beams": 2}])
def test_stops_when_all_texts_have_ended(options):
    """The second text ends with its fifth token, the first with its second."""
    steps = []

    def step(cache, token_ids, position):
        jax.debug.callback(lambda position: steps.append(int(position)), position)
        rows = cache["last_position"]
        ends = jnp.broadcast_to(position >= rows, rows.shape)
        tokens = jnp.where(ends, END, 3)
        return 30.0 * jax.nn.one_hot(tokens, 5), cache

    def start(grid, max_length):
        return {"last_position": grid[:, 0, 0].astype(jnp.int32)}

    grid = np.array([0, 3], np.float32)[:, None, None]
    texts = generate(start, step, grid, max_length=50, **options, **SPECIAL)
    jax.effects_barrier()
    np.testing.assert_array_equal(texts[0, :3], [START, END, PAD])
    np.testing.assert_array_equal(texts[1, :6], [START, 3, 3, 3, END, PAD])
    assert not np.asarray(texts[:, 6:]).any()
    # Beam search goes on until two beams have ended, of which the second takes one step more.
    assert max(steps) == (3 if options["method"] == "greedy" else 4)


def test_nucleus_of_the_likeliest_token_is_greedy():
    tables = toy_tables(40, 7)
    greedy = generate(toy_start, toy_step, tables, max_length=9, **SPECIAL)
    nucleus = generate(
        toy_start,
        toy_step,
        tables,
        method="nucleus",
        top_p=1e-6,
        key=jax.random.key(0),
        max_length=9,
        **SPECIAL,
    )
    np.testing.assert_array_equal(nucleus, greedy)


@pytest.mark.parametrize(
    ("top_p", "nucleus"),
    [(0.3, [3]), (0.5, [3, 1]), (0.7, [3, 1, 4]), (1.0, [0, 1, 2, 3, 4])],
)
def test_nucleus_frequencies(top_p, nucleus):
    draws = 20_000
    probabilities = np.array([0.1, 0.25, 0.05, 0.4, 0.2])
    logits = np.tile(np.log(probabilities).astype(np.float32) + 3, (draws, 1))
    tokens = sample_nucleus(jax.random.key(0), logits, top_p)
    expected = np.zeros(5)
    expected[nucleus] = probabilities[nucleus] / probabilities[nucleus].sum()
    frequencies = np.bincount(tokens, minlength=5) / draws
    deviation = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(frequencies - expected) <= 4 * deviation).all()


def test_nucleus_draws_each_token_of_each_text_anew():
    """Tokens 3 to 5 are equally likely wherever they stand; so are pairs of them."""
    logits = np.full((3000, NUM_STATES, 6), -30, np.float32)
    logits[:, :, 3:] = 0
    sample = jax.jit(
        lambda seed: generate(
            toy_start,
            toy_step,
            logits,
            method="nucleus",
            top_p=1.0,
            key=jax.random.key(seed),
            max_length=4,
            **SPECIAL,
        )
    )
    texts = np.asarray(sample(0))
    for first, second in ((1, 2), (2, 3), (1, 3)):
        pairs = np.bincount(3 * (texts[:, first] - 3) + texts[:, second] - 3, minlength=9)
        # The chi-squared of 8 degrees of freedom is below 26.1 with probability 0.999.
        assert ((pairs - 3000 / 9) ** 2 / (3000 / 9)).sum() < 26.1
    np.testing.assert_array_equal(texts, sample(0))
    assert (texts != np.asarray(sample(1))).mean() > 0.3


DECODER = CaptionDecoder(
    vocab_size=7, hidden_size=8, num_layers=2, num_heads=2, intermediate_size=12, max_length=8
)


@pytest.fixture
def decoder(make_variables, random_image):
    """The functions `start` and `step` of a decoder, its logits of whole texts, and a grid."""
    grid, ids = random_image(6, 4, 5), np.ones((6, 8), np.int32)
    variables = make_variables(DECODER, grid, ids, ids > 0, deterministic=True, seed=3)
    # Random layers, unlike trained ones, would seldom change their mind.
    variables["params"]["word_embeddings"]["embedding"] *= 3

    def call(method):
        return lambda *arguments: DECODER.apply(variables, *arguments, method=method)

    @jax.jit
    def whole(grid, ids):
        mask = jnp.ones(ids.shape, bool)
        return DECODER.apply(variables, grid, ids, mask, deterministic=True)["caption_logits"]

    return call("start"), call("step"), whole, grid


def test_greedy_with_the_decoder_equals_a_loop_over_whole_texts(decoder):
    start, step, whole, grid = decoder

    def next_logits(text, image):
        padded = np.array([text + [PAD] * (8 - len(text))], np.int32)
        return whole(image[None], padded)[0, len(text) - 1]

    expected = [
        greedy_loop(lambda text, image=image: next_logits(text, image), 8) for image in grid
    ]
    greedy = generate(start, step, grid, max_length=8, **SPECIAL)
    np.testing.assert_array_equal(greedy, expected)
    single = generate(start, step, grid, method="beam", num_beams=1, max_length=8, **SPECIAL)
    np.testing.assert_array_equal(single, expected)
    assert len({tuple(text) for text in expected}) > 2


def test_beam_search_with_the_decoder_equals_that_without_cache(decoder):
    start, step, whole, grid = decoder

    def start_whole(grid, max_length):
        return {"grid": grid, "ids": jnp.zeros((len(grid), max_length), jnp.int32)}

    def step_whole(cache, token_ids, position):
        ids = cache["ids"].at[:, position].set(token_ids)
        return whole(cache["grid"], ids)[:, position], cache | {"ids": ids}

    options = {"method": "beam", "num_beams": 3, "max_length": 8} | SPECIAL
    ours = np.asarray(generate(start, step, grid, **options))
    np.testing.assert_array_equal(ours, generate(start_whole, step_whole, grid, **options))
    greedy = generate(start, step, grid, max_length=8, **SPECIAL)
    assert (ours != np.asarray(greedy)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "best"}, "method is 'best': give one of greedy, beam, nucleus"),
        ({"max_length": 1}, "max_length is 1: give 2 or more"),
        ({"method": "beam", "num_beams": 0}, "num_beams is 0: give 1 or more"),
        ({"method": "nucleus", "top_p": 0.0}, "top_p is 0.0: give a number above 0"),
        ({"method": "nucleus", "top_p": 1.1}, "top_p is 1.1: give a number above 0"),
        ({"method": "nucleus"}, "give it a key"),
    ],
)
def test_impossible_options_are_errors(options, message):
    options = {"max_length": 5} | options
    with pytest.raises(UserError, match=message):
        generate(toy_start, toy_step, toy_tables(1, 4), **options, **SPECIAL)
