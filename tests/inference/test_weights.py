"""The hash of weights, and the refusal of those that have diverged."""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.errors import UserError
from medclip_jax.inference.weights import hash_weights, require_finite_weights

VARIABLES = {
    "params": {"b": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "a": np.float32(2)},
    "batch_stats": {"mean": np.ones(3, np.float32)},
}


def test_the_hash_is_that_of_names_types_shapes_and_bytes() -> None:
    digest = hashlib.sha256()
    for name, array in (
        ("batch_stats/mean float32 (3,)", VARIABLES["batch_stats"]["mean"]),
        ("params/a float32 ()", np.float32(2)),
        ("params/b/kernel float32 (2, 3)", VARIABLES["params"]["b"]["kernel"]),
    ):
        digest.update(f"{name}\n".encode() + array.tobytes())
    assert hash_weights(VARIABLES) == digest.hexdigest()


def test_the_hash_is_the_same_on_any_number_of_devices() -> None:
    weights = {"params": {"kernel": np.arange(64, dtype=np.float32).reshape(8, 8)}}
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    for spec in (jax.P("data"), jax.P(None, "data"), jax.P()):
        laid_out = jax.device_put(weights, jax.NamedSharding(mesh, spec))
        assert hash_weights(laid_out) == hash_weights(weights)


@pytest.mark.parametrize(
    "kernel",
    [
        np.arange(6, dtype=np.float32).reshape(3, 2),
        np.arange(6, dtype=np.float64).reshape(2, 3),
        np.arange(1, 7, dtype=np.float32).reshape(2, 3),
    ],
)
def test_another_shape_type_or_value_has_another_hash(kernel: np.ndarray) -> None:
    other = VARIABLES | {"params": {"b": {"kernel": kernel}, "a": np.float32(2)}}
    assert hash_weights(other) != hash_weights(VARIABLES)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_diverged_are_refused(dtype: str) -> None:
    require_finite_weights(VARIABLES, Path("runs/x"), 40)
    bad = {"params": {"fine": jnp.ones(2), "kernel": jnp.array([1, jnp.nan], dtype)}}
    with pytest.raises(UserError, match=r"runs/x: the weights of step 40 .*params/kernel\).*step"):
        require_finite_weights(bad, Path("runs/x"), 40)
