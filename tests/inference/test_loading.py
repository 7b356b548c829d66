"""Which checkpoint is loaded, also while a run saves better ones and deletes those before."""

from pathlib import Path
from typing import Any

import pytest

from medclip_jax.inference import loading


class SavingRun:
    """In place of a `Checkpointer`: a run that deletes checkpoint 5 for 10 while 5 is read."""

    def __init__(self, directory: Path, *, read_only: bool):
        assert read_only
        self._directory = directory

    def best_step(self) -> int:
        return min(int(path.name) for path in self._directory.iterdir())

    def restore_model(self, step: int) -> dict[str, Any]:
        if step == 5:
            (self._directory / "10").mkdir()
            (self._directory / "5").rmdir()
            raise FileNotFoundError(step)
        return {"params": step}

    def close(self) -> None:
        pass


def test_a_checkpoint_that_its_run_deletes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "Checkpointer", SavingRun)
    (tmp_path / "5").mkdir()
    assert loading._best_checkpoint(tmp_path) == ({"params": 10}, 10)
