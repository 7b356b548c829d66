"""What of a step is not finite is counted and named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.train.finite import NUM_NOT_FINITE, describe_problem, num_not_finite


def test_the_count_is_numpys() -> None:
    generator = np.random.default_rng(0)
    tree = {}
    for name, shape in (("a", (3, 5)), ("b", (64,)), ("c", ())):
        values = generator.normal(size=shape).astype(np.float32)
        bad = np.array([np.nan, np.inf, -np.inf], np.float32)
        hit = generator.random(shape) < 0.3
        tree[name] = np.where(hit, generator.choice(bad, shape), values)
    expected = sum(int((~np.isfinite(values)).sum()) for values in tree.values())
    assert expected > 0
    arrays = jax.tree.map(jnp.asarray, tree) | {"count": jnp.int32(7)}
    assert float(jax.jit(num_not_finite)(arrays)) == expected
    assert float(num_not_finite({"count": jnp.int32(7), "fine": jnp.ones(3)})) == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"loss": 1.0, "gradient_norm": 2.0, NUM_NOT_FINITE: 0.0}, None),
        ({"loss": float("nan"), "gradient_norm": float("inf")}, "the loss is nan"),
        ({"loss": 1.0, "gradient_norm": float("inf")}, "the gradient norm is inf"),
        ({"loss": 1.0, "matching/accuracy": float("nan")}, "the matching accuracy is nan"),
        ({"loss": 1.0, NUM_NOT_FINITE: 3.0}, "the update makes 3 entries"),
    ],
)
def test_the_problem_is_named(values: dict[str, float], words: str | None) -> None:
    found = describe_problem(values)
    assert found == words if words is None else str(found).startswith(words)
