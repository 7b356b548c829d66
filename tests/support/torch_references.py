"""PyTorch's libraries, and its modules with weights and statistics that are far from their start.

Fixtures: a conftest imports those that its tests use.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

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
