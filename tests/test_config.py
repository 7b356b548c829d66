"""Configs: every shipped one is whole, overrides apply, and mistakes are one clear line."""

import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from medclip_jax import config as configs
from medclip_jax.errors import UserError

NAMES = ("convirt", "matching", "radtex", "mixed", "combined")
SHIPPED = [f"{name}.py{variant}" for name in NAMES for variant in ("", ":demo", ":small")]
SHIPPED.append("convirt.py:large")


@pytest.mark.parametrize("path", SHIPPED)
def test_shipped_configs_have_exactly_the_known_keys(path: str) -> None:
    config = configs.load_config(path)
    assert set(dict(configs.flatten(config))) == set(dict(configs.flatten(configs.base_config())))


def test_convirt_has_the_papers_values() -> None:
    config = configs.load_config("convirt.py")
    assert config.objectives.contrastive.image_to_text_weight == 0.75
    assert (config.temperature.init, config.temperature.learnable) == (0.1, False)
    assert (config.projection.size, config.projection.kind) == (512, "nonlinear")
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (1e-4, 1e-6)
    assert (config.schedule.name, config.schedule.factor, config.schedule.patience) == (
        "plateau",
        0.5,
        5,
    )
    assert (config.batch_size, config.evaluate_every, config.num_steps) == (32, 5000, 1_000_000)
    augmentation = config.augmentation
    assert augmentation.crop_area == (0.6, 1.0) and augmentation.rotation_degrees == 20
    assert augmentation.translation == 0.1 and augmentation.scale == (0.95, 1.05)
    assert augmentation.brightness == augmentation.contrast == (0.6, 1.4)
    assert augmentation.blur_sigma == (0.1, 3.0) and augmentation.crop_size == 224


def test_convirt_for_large_batches_is_scaled_by_its_rules() -> None:
    paper, config = (configs.load_config(f"convirt.py{variant}") for variant in ("", ":large"))
    assert config.batch_size == 16_384 and config.compute_dtype == "bfloat16"
    assert config.optimizer.learning_rate == pytest.approx(5e-4 / 2**0.5)
    assert config.optimizer.decoupled_weight_decay and config.schedule.name == "cosine"
    seen = [one.num_steps * one.batch_size for one in (paper, config)]
    assert seen[1] == pytest.approx(seen[0], rel=0.01)
    assert config.schedule.warmup_steps == pytest.approx(config.num_steps / 10, abs=1)
    assert config.objectives.contrastive.tile_size > 0
    assert config.evaluate_every < config.num_steps / 10 and config.data.validation_examples
    assert config.image_encoder == paper.image_encoder
    assert config.text_encoder == paper.text_encoder


def test_overrides_reach_nested_keys_and_tuples() -> None:
    config = configs.load_config(
        "convirt.py:demo",
        [
            "--config.batch_size=16",
            "--config.optimizer.learning_rate=1",
            "--config.optimizer.frozen=('image_encoder/', 'x')",
            "--config.data.dataset=manifest/mine",
        ],
    )
    assert config.batch_size == 16 and config.optimizer.learning_rate == 1.0
    assert config.optimizer.frozen == ("image_encoder/", "x")
    assert config.data.dataset == "manifest/mine"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("--config.batch_siz=3", "batch_size"),
        ("--config.optimizer.learning_rat=1.0", "learning_rate"),
        ("--config.batch_size=many", "batch_size"),
        ("--config.objectives.nonsense.weight=1", "nonsense"),
        ("--config.batch_size=0", "batch_size is 0, but must be 1 or more"),
        ("--config.seed=-1", "seed is -1, but must be 0 or more"),
        ("--config.optimizer.learning_rate=nan", "learning_rate is nan"),
        ("--config.optimizer.b1=inf", "b1 is inf, but must be a finite number"),
        ("--config.text_encoder.max_length=2", "max_length is 2, but must be 3 or more"),
        ("--config.objectives.contrastive.tile_size=-5", "is -5, but must be 0 or more"),
        ("--config.schedule.factor=1", "factor is 1.0, but must be below 1"),
        ("--config.objectives.matching.margin=0", "margin is 0.0, but must be above 0"),
        ("--config.num_steps=10000000000", "must be below 2147483648"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_key(override: str, named: str) -> None:
    with pytest.raises(UserError) as error:
        configs.load_config("convirt.py:demo", [override])
    assert named in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("config.unlock(); config.optimizer.learning_rte = 1.0", "learning_rate"),
        ("config.unlock(); del config.seed", "seed"),
        ("config.unlock(); config.batch_size = 'x'", "batch_size"),
        ("raise ValueError('broken file')", "broken file"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, body: str, named: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from medclip_jax.config import base_config\n"
        f"def get_config():\n    config = base_config()\n    {body}\n    return config\n"
    )
    with pytest.raises(UserError) as error:
        configs.load_config(str(file))
    assert named in str(error.value) and "\n" not in str(error.value)


def test_unknown_file_and_variant() -> None:
    with pytest.raises(UserError, match="nowhere.py not found"):
        configs.load_config("nowhere.py")
    with pytest.raises(UserError, match="no variant 'huge'"):
        configs.load_config("convirt.py:huge")


def test_a_config_survives_json(tmp_path: Path) -> None:
    config = configs.load_config("convirt.py", ["--config.data.mixture=(('a', 1.0), ('b', 2.0))"])
    configs.write_config(config, tmp_path / "config.json")
    read = configs.read_config(tmp_path / "config.json")
    assert read.to_dict() == config.to_dict()
    json.loads((tmp_path / "config.json").read_text())


# What a resumed run may have otherwise: without a word, with a line that bits may change, and with
# a line that figures change. Every other key is refused.
FREE = {
    "log_every",
    "checkpoint_every",
    "profile.start",
    "profile.steps",
    "distributed.start_timeout",
    "distributed.peer_timeout",
    "data.data_dir",
    "data.num_threads",
    "data.prefetch",
}
REORDERED = {
    "mesh.data",
    "mesh.fsdp",
    "mesh.tensor",
    "fsdp_min_size",
    "attention",
    "remat_policy",
    "image_encoder.remat",
    "text_encoder.remat",
    "fusion.remat",
    "objectives.contrastive.tile_size",
    "objectives.sigmoid_contrastive.tile_size",
    "objectives.multi_view_contrastive.tile_size",
}
OTHER_FIGURES = {
    "num_steps",
    "evaluate_every",
    "microbatch_size",
    "scan_layers",
    "optimizer.learning_rate",
    "optimizer.learning_rate_multipliers",
    "optimizer.clip_norm",
    "schedule.name",
    "schedule.warmup_steps",
    "schedule.final_fraction",
    "schedule.factor",
    "schedule.patience",
}


def other_value(value: object) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    return (*value, "x") if isinstance(value, tuple) else value + 1  # type: ignore[operator]


@pytest.mark.parametrize("key", [key for key, _ in configs.flatten(configs.base_config())])
def test_what_a_resumed_run_may_have_otherwise(key: str) -> None:
    saved = configs.base_config()
    config = ConfigDict(saved.to_dict())
    before = dict(configs.flatten(saved))[key]
    after = other_value(before)
    config.update_from_flattened_dict({key: after})
    if key in FREE:
        assert configs.check_same_run(saved, config) == []
    elif key in REORDERED | OTHER_FIGURES:
        (change,) = configs.check_same_run(saved, config)
        assert (change.key, change.before, change.after) == (key, before, after)
        assert ("last bits" in change.effect) == (key in REORDERED)
    else:
        with pytest.raises(UserError, match=rf"holds a run with {key}="):
            configs.check_same_run(saved, config)


def test_a_run_of_an_older_version_gets_the_keys_that_came_later(tmp_path: Path) -> None:
    config = configs.base_config()
    config.image_encoder.width = 8
    path = tmp_path / "config.json"
    configs.write_config(config, path)
    older = json.loads(path.read_text())
    del older["fusion"], older["image_encoder"]["output_stride"]
    path.write_text(json.dumps(older))
    assert configs.read_config(path).to_dict() == config.to_dict()
    older["image_encoder"]["wdith"] = 8
    path.write_text(json.dumps(older))
    with pytest.raises(UserError, match="unknown config key image_encoder.wdith"):
        configs.read_config(path)
