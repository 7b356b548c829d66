"""Starting JAX: joining other processes, and where compiled programs are kept."""

from pathlib import Path

import jax
import pytest

from medclip_jax import runtime
from medclip_jax.errors import UserError


def test_without_a_coordinator_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    runtime.initialize_distributed()
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.delenv("JAX_NUM_PROCESSES", raising=False)
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES"):
        runtime.initialize_distributed()


@pytest.fixture
def restore_cache() -> None:
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.usefixtures("restore_cache")
def test_compiled_programs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runtime.start()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "medclip_jax" / "xla")
