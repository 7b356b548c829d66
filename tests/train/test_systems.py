"""Every system in one step: what is trained, which rows count, what leaks, what is shared."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from medclip_jax import objectives
from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.errors import UserError
from medclip_jax.models.parts import patch_size
from medclip_jax.models.patches import unpatchify
from medclip_jax.train import optimizer as optimizers
from medclip_jax.train.step import make_eval_step

# A bias of attention's keys adds the same to all logits of a softmax.
WITHOUT_EFFECT = re.compile(r"attention/key/bias$")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokens"))


def moved(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    first, second = optimizers.flatten_params(before), optimizers.flatten_params(after)
    return {name for name in first if not np.array_equal(first[name], second[name])}


# Those of the largest systems are slow.
COMBINED = pytest.param("combined", marks=pytest.mark.slow)
MORE = [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in (("mixed", ()), ("mixed", ("^fusion/",)), ("combined", ()))
]


@pytest.mark.parametrize(("name", "frozen"), [*((name, ()) for name in tiny.CONFIGS[:3]), *MORE])
def test_every_trainable_parameter_moves_and_no_frozen_one(
    name: str, frozen: tuple[str, ...], tokens: Tokenizer
) -> None:
    config = tiny.tiny_config(name, **{"optimizer.frozen": frozen})
    state, step = tiny.start(config, tokens)
    after, metrics = state, {}
    for seed in range(2):  # what lies behind a zero moves in the second step
        after, metrics = step(after, tiny.batch(tokens, seed=seed))
    trainable, still = optimizers.split_frozen(state.params, frozen)
    changed = moved(state.params, after.params)
    assert not changed & set(still)
    assert not {name for name in set(trainable) - changed if not WITHOUT_EFFECT.search(name)}
    assert np.isfinite(float(metrics["loss"]))
    active = objectives.active(config.objectives)
    assert {f"{objective}/loss" for objective in active} <= set(metrics)


def mixtures() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Which rows have an image, and which a text."""
    yes, no, half = np.ones(8, bool), np.zeros(8, bool), np.arange(8) < 4
    return {
        "pairs": (yes, yes),
        "images": (yes, no),
        "texts": (no, yes),
        "no pair": (half, ~half),
        "mixed": (np.arange(8) < 6, np.arange(8) > 2),
        "nothing": (no, no),
    }


@pytest.mark.parametrize("name", ["mixed", COMBINED, "matching"])
def test_any_mixture_of_rows_trains_with_one_program(name: str, tokens: Tokenizer) -> None:
    state, step = tiny.start(tiny.tiny_config(name), tokens)
    for has_image, has_text in mixtures().values():
        rows = {"has_image": jnp.asarray(has_image), "has_text": jnp.asarray(has_text)}
        state, metrics = step(state, tiny.batch(tokens) | rows)
        assert all(np.isfinite(float(value)) for value in metrics.values())
    for leaf in jax.tree.leaves(state.params):
        assert np.isfinite(leaf).all()
    assert step._cache_size() == 1


@pytest.mark.parametrize("name", ["mixed", COMBINED])
def test_each_objective_uses_exactly_the_rows_it_can(name: str, tokens: Tokenizer) -> None:
    """In training, where a ResNet's statistics are those of the batch."""
    config = tiny.tiny_config(name)
    config.objectives.matching.negatives = "random"  # hard ones depend on all embeddings
    model, masks = tiny.model_and_masks(config, tokens)
    variables = tiny.variables(model, tiny.example(config, masks))
    rows = {"has_image": jnp.arange(8) != 1, "has_text": jnp.arange(8) != 2}
    batch = tiny.masked(config, masks, tiny.batch(tokens) | rows)
    everything_seen = jnp.ones(8, bool)
    batch |= {"image_in_view": everything_seen, "text_in_view": everything_seen}
    batch["token_is_masked"] = batch["token_mask"]

    @jax.jit
    def losses(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        rngs = {"negatives": jax.random.key(2), "dropout": jax.random.key(3)}
        outputs: Any = model.apply(variables, batch, True, rngs=rngs, mutable=["batch_stats"])[0]
        metrics = objectives.total_loss(outputs, batch, config.objectives)[1]
        return {name: metrics[f"{name}/loss"] for name in objectives.active(config.objectives)}

    before = losses(batch)
    other_text = tokens.encode_batch(["severe edema left of it"], tiny.LENGTH)[0][0]
    unseen = losses(
        batch
        | {
            "image": batch["image"].at[1].add(3.0),
            "token_ids": batch["token_ids"].at[2].set(other_text),
            "masked_token_ids": batch["masked_token_ids"].at[2].set(other_text),
        }
    )
    for name, loss in before.items():
        np.testing.assert_allclose(unseen[name], loss, rtol=1e-6, err_msg=name)
    seen = losses(
        batch
        | {
            "image": batch["image"].at[3].add(3.0),
            "token_ids": batch["token_ids"].at[3].set(other_text),
        }
    )
    for name, loss in before.items():
        assert float(seen[name]) != pytest.approx(float(loss), rel=1e-6), name


@pytest.mark.parametrize("name", ["mixed", "combined"])
def test_masks_never_leak(name: str, tokens: Tokenizer) -> None:
    config = tiny.tiny_config(name)
    model, masks = tiny.model_and_masks(config, tokens)
    variables = tiny.variables(model, tiny.example(config, masks))
    batch = tiny.masked(config, masks, tiny.batch(tokens))
    assert batch["token_is_masked"].any() and batch["patch_is_masked"].any()

    @jax.jit
    def outputs(batch: dict[str, jax.Array]) -> Any:
        return model.apply(variables, batch, rngs={"negatives": jax.random.key(2)})

    before = outputs(batch)
    size = patch_size(config)
    hidden = jnp.repeat(batch["patch_is_masked"][:, :, None], size**2, axis=2)
    noise = jax.random.normal(jax.random.key(3), hidden.shape) * hidden
    image = batch["image"] + unpatchify(noise, tiny.SIZE // size, size)
    after = outputs(batch | {"image": image})
    np.testing.assert_array_equal(after["patch_predictions"], before["patch_predictions"])
    other = jnp.where(batch["token_is_masked"], 5, batch["token_ids"])
    assert (other != batch["token_ids"]).any()
    after = outputs(batch | {"token_ids": other})
    np.testing.assert_array_equal(after["token_logits"], before["token_logits"])


@pytest.mark.parametrize(("vision", "image_calls"), [(0.0, 1), (1.0, 2)])
def test_shared_encodings_are_computed_once(
    vision: float, image_calls: int, tokens: Tokenizer
) -> None:
    """Images are encoded once, and once more where patches are masked; texts likewise."""
    config = tiny.tiny_config("combined", **{"objectives.masked_vision.weight": vision})
    state, _ = tiny.start(config, tokens)
    model, masks = tiny.model_and_masks(config, tokens)
    step = jax.jit(make_eval_step(model, config, masks, tiny.one_device()))
    program = step.lower(state, tiny.batch(tokens)).compile().as_text()

    def calls(encoder: str) -> int:
        pattern = rf" dot\(.*/{encoder}/\S*layer_0/attention/query/dot_general"
        return len(re.findall(pattern, program))

    assert calls("image_encoder") == image_calls
    assert calls("text_encoder") == 2  # the texts, and the masked texts


def test_impossible_combinations_are_refused(tokens: Tokenizer) -> None:
    for changes, message in (
        ({"fusion.num_layers": 0}, "masked_language needs config.fusion.num_layers"),
        (
            {"image_encoder.name": "resnet18", "augmentation.crop_size": 80},
            "must be a multiple of the 32 pixels",
        ),
        ({"text_encoder.name": "none"}, "needs a text_encoder"),
        ({"fusion.shared": True}, "an encoder of their own"),
        ({"objectives.matching.kind": "triplet"}, "give one of binary, margin"),
        ({"objectives.matching.negatives": "easy"}, "give one of random, label_aware, hard"),
        (
            {"objectives.contrastive.weight": 0.0},
            "negatives hard needs embeddings",
        ),
        ({"objectives.masked_vision.scales": (9,)}, "do not fit"),
        ({"objectives.masked_vision.ratios": (1.0,)}, "some of them and not all"),
    ):
        with pytest.raises(UserError, match=message):
            tiny.start(tiny.tiny_config("combined", **changes), tokens)
