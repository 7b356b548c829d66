"""The random keys of a run: no two parts draw from one key, nor from one another's children."""

import itertools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from medclip_jax.train import step as steps
from medclip_jax.train.state import TrainState, initial_rngs
from medclip_jax.train.step_parts import StepParts

CHILDREN = 8


def family(key: jax.Array) -> set[tuple[int, ...]]:
    """The key and those that splitting it, or folding small numbers into it, gives."""
    folded = [jax.random.fold_in(key, number) for number in range(CHILDREN)]
    keys = [key, *jax.random.split(key, CHILDREN), *folded]
    return {tuple(np.asarray(jax.random.key_data(one)).tolist()) for one in keys}


def drawn_keys(make_step: Any, state: TrainState, monkeypatch: Any) -> dict[str, jax.Array]:
    """The keys that a step gives to augmentation, masks and model."""
    found: dict[str, jax.Array] = {}
    embeddings = jnp.eye(4)

    def apply(variables: Any, batch: Any, *, train: bool, rngs: Any, **options: Any) -> Any:
        found.update(rngs)
        image = embeddings * jax.tree.leaves(variables["params"])[0]
        outputs = {"image_embeddings": image, "text_embeddings": embeddings, "temperature": 0.1}
        return (outputs, {}) if train else outputs

    def masks(batch: Any, key: jax.Array) -> Any:
        return found.update(masks=key) or batch

    def note_augmentation(image: Any, key: jax.Array, options: Any) -> Any:
        return found.update(augmentation=key) or image

    monkeypatch.setattr(steps, "augment", note_augmentation)
    rows = jnp.ones(4, bool)
    images = jnp.zeros((4, 8, 8), jnp.uint8)
    make_step(SimpleNamespace(apply=apply), masks)(
        state, {"image": images, "group_ids": jnp.arange(4), "has_image": rows, "has_text": rows}
    )
    return found


def test_no_part_has_the_key_or_a_child_of_the_key_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny.tiny_config("convirt", seed=3)
    optimizer = steps.optimizers.make_optimizer(config.optimizer, ["w"])
    params = {"w": jnp.ones(())}
    state = TrainState(
        jnp.int32(0), params, {}, optimizer.init(params), SimpleNamespace(scale=1.0), {}
    )
    mesh = tiny.one_device()

    def train(model: Any, masks: Any) -> Any:
        return steps.make_train_step(model, config, masks, optimizer, lambda step: 0.1, mesh)

    def evaluate(model: Any, masks: Any) -> Any:
        return steps.make_eval_step(model, config, masks, mesh)

    keys = {f"initial {name}": key for name, key in initial_rngs(config.seed).items()}
    for number in range(3):
        at_step = state.replace(step=jnp.int32(number))
        found = drawn_keys(train, at_step, monkeypatch)
        assert set(found) == {"augmentation", "masks", "dropout", "negatives"}
        keys |= {f"step {number} {name}": key for name, key in found.items()}
    found = drawn_keys(evaluate, state, monkeypatch)
    assert set(found) == {"masks", "negatives"}
    keys |= {f"evaluation {name}": key for name, key in found.items()}

    families = {name: family(key) for name, key in keys.items()}
    for (one, first), (other, second) in itertools.combinations(families.items(), 2):
        assert not first & second, (one, other)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 4])
def test_no_key_is_used_twice(size: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """JAX's own check, over a step with every objective that draws, whole and in pieces."""
    tokens = tiny.tokenizer(tmp_path_factory.mktemp("tokens"))
    config = tiny.tiny_config("combined", batch_size=8, microbatch_size=size)
    config.text_encoder.dropout_rate = config.fusion.dropout_rate = 0.1
    parts = StepParts.make(config, tiny.one_device(), tokens, tiny.LABELS)
    batch = parts.abstract_batch()
    with jax.debug_key_reuse(True):
        parts.train_step().trace(parts.abstract_state(), batch)
        parts.eval_step().trace(parts.abstract_state(), batch)
