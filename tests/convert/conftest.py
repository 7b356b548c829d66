"""PyTorch references of the encoders, and code that Transformers loads from exports."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.torch_references import (  # noqa: F401
    randomize,
    timm,
    torchvision,
    transformers,
)


@pytest.fixture
def code_cache(
    transformers: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Code of models is copied into a directory of the test, and forgotten after it."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
            del sys.modules[name]

    forget()
    cache = "transformers.dynamic_module_utils.HF_MODULES_CACHE"
    monkeypatch.setattr(cache, str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    forget()
