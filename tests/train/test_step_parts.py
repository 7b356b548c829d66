"""What a step is made of: frozen parameters need weights, any number gives a step or a line."""

from pathlib import Path
from typing import Any

import pytest
from support import tiny

from medclip_jax.base_config import base_config
from medclip_jax.config import flatten, load_config, validate
from medclip_jax.data.tokenizer import placeholder_tokenizer
from medclip_jax.errors import UserError
from medclip_jax.train.run import prepare_run
from medclip_jax.train.step_parts import StepParts, check_frozen_are_given


@pytest.mark.parametrize(
    ("name", "frozen", "given", "message"),
    [
        ("convirt", "^text_encoder/", (), "give --config.text_encoder.init=WEIGHTS, or train it"),
        ("convirt", "^text_encoder/", ("image",), "give --config.text_encoder.init=WEIGHTS"),
        ("convirt", "encoder/", ("text",), "give --config.image_encoder.init=WEIGHTS"),
        ("convirt", "position_embeddings", (), "give --config.text_encoder.init=WEIGHTS"),
        ("convirt", "^image_proj", ("image", "text"), "starts at random: train it, as all is with"),
        ("combined", "^fusion/", ("image", "text"), "starts at random: train it, as all is with"),
        ("convirt", "encoder/", ("image", "text"), None),
        ("convirt", "^text_encoder/", ("text",), None),
        ("combined", "(scale|bias|temperature|image_positions)$", (), None),
    ],
)
def test_frozen_parameters_need_weights(
    name: str, frozen: str, given: tuple[str, ...], message: str | None
) -> None:
    inits = {f"{part}_encoder.init": "weights" for part in given}
    config = tiny.tiny_config(name, **{"optimizer.frozen": (frozen,), **inits})
    config.tokenizer.vocab_size = 60
    if message is None:
        check_frozen_are_given(config, tiny.one_device())
        return
    with pytest.raises(UserError, match=message) as error:
        check_frozen_are_given(config, tiny.one_device())
    assert "\n" not in str(error.value) and '--config.optimizer.frozen="()"' in str(error.value)


def test_a_run_without_weights_is_refused_before_its_data_is_read(
    toy_config: Path, tmp_path: Path
) -> None:
    frozen = "--config.optimizer.frozen=('text_encoder/layer_0/',)"
    config = load_config(str(toy_config), [frozen, "--config.data.dataset=manifest/nowhere"])
    with pytest.raises(UserError, match="config.optimizer.frozen freezes text_encoder/layer_0/"):
        prepare_run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def all_losses() -> Any:
    """A tiny config with every objective but those that exclude one another."""
    config = tiny.tiny_config("combined", batch_size=8)
    for name in ("sigmoid_contrastive", "multi_view_contrastive", "local_contrastive"):
        config.objectives[name].weight = 1.0
    config.image_encoder.num_layers = config.fusion.num_layers = 1
    return config


def test_a_batch_holds_whole_studies() -> None:
    config = all_losses()
    config.objectives.multi_view_contrastive.views = 3
    with pytest.raises(UserError, match="batch_size 8 is not a multiple of the 3 views"):
        StepParts.make(config, tiny.one_device(), placeholder_tokenizer(60), tiny.LABELS)


def numbers() -> list[str]:
    """The numbers of a config that shape the model or its losses."""
    parts = ("image_encoder", "text_encoder", "projection", "temperature", "fusion", "objectives")
    parts += ("matching_head", "caption_decoder", "local_projection_size", "schedule")
    return [
        key
        for key, default in flatten(base_config())
        if key.startswith(parts) and not key.endswith(".weight")
        if isinstance(default, int | float) and not isinstance(default, bool)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("key", numbers())
def test_the_least_number_that_is_taken_gives_a_step_or_one_line(key: str) -> None:
    config = all_losses()
    kind = type(dict(flatten(base_config()))[key])
    for value in (-5, -1, 0, 1, 2, 3):
        config.update_from_flattened_dict({key: kind(value)})
        try:
            validate(config)
        except UserError as error:
            assert key in str(error) and "\n" not in str(error)
            continue
        break
    try:
        parts = StepParts.make(config, tiny.one_device(), placeholder_tokenizer(60), tiny.LABELS)
        parts.eval_step().trace(parts.abstract_state(), parts.abstract_batch())
    except UserError as error:
        assert "\n" not in str(error)
