"""`changes.jsonl` has the history of a config, and gives back what it was at an earlier step."""

from pathlib import Path

import pytest
from ml_collections import ConfigDict

from medclip_jax.config import base_config, check_same_run, write_config
from medclip_jax.errors import UserError
from medclip_jax.train.changes import CHANGES, config_at, record


def resumed(workdir: Path, step: int, **keys: object) -> ConfigDict:
    """The run taken up at a step with other values, as `pretrain` does it."""
    before = config_at(workdir, step)
    config = ConfigDict(before.to_dict())
    config.update_from_flattened_dict(keys)
    record(workdir, step, check_same_run(before, config))
    write_config(config, workdir / "config.json")
    return config


def test_a_config_is_known_at_every_step(tmp_path: Path) -> None:
    first = base_config()
    write_config(first, tmp_path / "config.json")
    assert config_at(tmp_path, 5).to_dict() == first.to_dict()
    rates = (("image_encoder/", 0.5), ("text_encoder/", 0.1))
    second = resumed(tmp_path, 10, **{"optimizer.learning_rate_multipliers": rates})
    third = resumed(tmp_path, 20, **{"optimizer.learning_rate": 1e-5, "num_steps": 5})
    for step, expected in ((9, first), (10, second), (19, second), (20, third), (99, third)):
        assert config_at(tmp_path, step).to_dict() == expected.to_dict()
    # Going back to step 15 takes back what was changed at step 20.
    resumed(tmp_path, 15, **{"optimizer.clip_norm": 1.0})
    assert (tmp_path / CHANGES).read_text().count("\n") == 2
    assert config_at(tmp_path, 14).to_dict() == second.to_dict()


@pytest.mark.parametrize("text", ["[]", '{"x": 1}', "null", "{"])
def test_a_damaged_history_is_one_line(tmp_path: Path, text: str) -> None:
    write_config(base_config(), tmp_path / "config.json")
    (tmp_path / CHANGES).write_text(text)
    with pytest.raises(UserError, match="is damaged: remove it, or restore it from a copy"):
        config_at(tmp_path, 5)


def test_what_changes_no_figure_is_not_noted(tmp_path: Path) -> None:
    write_config(base_config(), tmp_path / "config.json")
    resumed(tmp_path, 10, **{"data.num_threads": 2})
    assert not (tmp_path / CHANGES).exists()


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    write_config(base_config(), tmp_path / "config.json")
    (tmp_path / CHANGES).write_text('{"step": 1')
    with pytest.raises(UserError, match="changes.jsonl is damaged"):
        config_at(tmp_path, 1)
