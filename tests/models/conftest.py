"""PyTorch references of the encoders, with weights and statistics that are far from their start."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

# Declared operators live as long as their library.
OPERATORS: list[Any] = []


@pytest.fixture(scope="session")
def torchvision() -> Any:
    """torchvision; its wheel for GPUs works beside a CPU torch once two operators are declared."""
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        OPERATORS.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            OPERATORS[0].define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        return importlib.import_module("torchvision")


@pytest.fixture(scope="session")
def timm(torchvision: Any) -> Any:
    return pytest.importorskip("timm")


@pytest.fixture(scope="session")
def transformers(request: pytest.FixtureRequest) -> Any:
    """transformers, which fails where torchvision is installed and does not import."""
    if importlib.util.find_spec("torchvision") is not None:
        request.getfixturevalue("torchvision")
    return pytest.importorskip("transformers")


@pytest.fixture
def randomize() -> Callable[[Any], dict[str, np.ndarray]]:
    """A function that randomises a torch module in place and returns its state dict as NumPy."""
    torch = pytest.importorskip("torch")

    def randomize_module(module: Any, seed: int = 0) -> dict[str, np.ndarray]:
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 1.5)
                elif name.endswith("running_mean") or name.endswith("bias"):
                    tensor.normal_(0, 0.2)
                elif tensor.ndim == 1:
                    tensor.uniform_(0.5, 1.0)
                elif tensor.ndim == 2:
                    tensor.normal_(0, tensor.shape[1] ** -0.5)
        return numpy_state_dict(module)

    def numpy_state_dict(module: Any) -> dict[str, np.ndarray]:
        return {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}

    return randomize_module


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
