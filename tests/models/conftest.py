"""PyTorch references of the encoders, and random variables and images."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from support.torch_references import (  # noqa: F401
    randomize,
    timm,
    torchvision,
    transformers,
)


@pytest.fixture
def make_variables() -> Callable[..., Any]:
    """A function that draws a Linen module's variables with NumPy, faster than `init` compiles."""

    def fill(path: Any, leaf: Any, generator: np.random.Generator) -> np.ndarray:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name in ("scale", "var"):
            values = generator.uniform(0.5, 1.5, leaf.shape)
        elif leaf.ndim < 2:
            values = 0.2 * generator.standard_normal(leaf.shape)
        else:
            fan_in = np.prod(leaf.shape[:-1])
            values = generator.standard_normal(leaf.shape) / np.sqrt(fan_in)
        return values.astype(leaf.dtype)

    def make(module: Any, *arguments: Any, seed: int = 0, **options: Any) -> Any:
        generator = np.random.default_rng(seed)
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments, **options))
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: fill(path, leaf, generator), shapes
        )

    return make


@pytest.fixture
def count_parameters() -> Callable[..., int]:
    """A function that counts a Linen module's parameters without computing any."""

    def count(module: Any, *arguments: Any, **options: Any) -> int:
        variables = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments, **options))
        return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))

    return count


@pytest.fixture
def count_remats() -> Callable[..., int]:
    """A function that counts the parts of a computation that its backward pass recomputes.

    XLA on CPU ignores the request, so memory would not tell.
    """

    def count(function: Callable[..., Any], *arguments: Any) -> int:
        equations = jax.make_jaxpr(function)(*arguments).eqns
        return sum(equation.primitive.name.startswith("remat") for equation in equations)

    return count


@pytest.fixture
def random_image() -> Callable[..., np.ndarray]:
    """A function that draws float32 images from a standard normal."""

    def draw(*shape: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    return draw
