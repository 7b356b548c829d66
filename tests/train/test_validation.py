"""The validation loss is the mean over exactly the rows that were asked for, on every mesh."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from support import tiny

from medclip_jax import objectives, sharding
from medclip_jax.config import load_config
from medclip_jax.data.tokenizer import Tokenizer, load_tokenizer, train_wordpiece
from medclip_jax.errors import UserError
from medclip_jax.train.step import make_eval_step
from medclip_jax.train.validation import Validation, prepare_validation

ROWS = len(tiny.TEXTS)  # no text twice: where rows tie, rounding decides the accuracy


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def filled_up(batch: dict[str, jax.Array], rows: int) -> dict[str, jax.Array]:
    """The batch with rows that do not count; all else in them is arbitrary."""
    more = rows - batch["has_image"].shape[0]
    generator = np.random.default_rng(1)
    filled = {}
    for name, array in batch.items():
        repeated = jnp.concatenate([array, array[generator.integers(0, len(array), more)]])
        filled[name] = repeated
    counts = jnp.arange(rows) < rows - more
    return filled | {name: filled[name] & counts for name in ("has_image", "has_text")}


def evaluate(config: ConfigDict, tokens: Tokenizer, state: Any, batch: Any, mesh: Any) -> Any:
    model, masks = tiny.model_and_masks(config, tokens)
    step = jax.jit(make_eval_step(model, config, masks, mesh))
    values = {name: float(value) for name, value in step(state, batch).items()}
    return objectives.mean_metrics([values], config.objectives)


@pytest.mark.parametrize("name", tiny.SLOW_LARGE_CONFIGS)
def test_rows_that_fill_a_batch_up_do_not_count(name: str, tokens: Tokenizer) -> None:
    config = tiny.tiny_config(name)
    state, _ = tiny.start(config, tokens)
    batch = tiny.batch(tokens, ROWS)
    expected = evaluate(config, tokens, state, batch, tiny.one_device())
    assert expected["loss"] > 0
    full = filled_up(batch, 8)
    assert evaluate(config, tokens, state, full, tiny.one_device()) == pytest.approx(
        expected, rel=1e-5, abs=1e-6
    )
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1})
    assert mesh.size == 8
    on_mesh = jax.device_put(jax.device_get(full), sharding.batch_sharding(mesh))
    state = jax.device_put(jax.device_get(state), sharding.replicated(mesh))
    assert evaluate(config, tokens, state, on_mesh, mesh) == pytest.approx(
        expected, rel=1e-5, abs=1e-6
    )


def toy(toy_config: Path, tmp_path: Path, *overrides: str) -> tuple[ConfigDict, Tokenizer]:
    config = load_config(str(toy_config), overrides)
    train_wordpiece(tiny.TEXTS * 3, 80, tmp_path / "tokenizer")
    return config, load_tokenizer(tmp_path / "tokenizer")


@pytest.mark.parametrize(("batch_size", "sizes"), [(64, [16]), (6, [6, 6, 4]), (16, [16])])
@pytest.mark.parametrize("axes", [None, {"data": -1, "fsdp": 1}])
def test_every_row_is_shown_once(
    toy_config: Path, tmp_path: Path, batch_size: int, sizes: list[int], axes: Any
) -> None:
    config, tokens = toy(toy_config, tmp_path, f"--config.validation_batch_size={batch_size}")
    mesh = sharding.make_mesh(axes) if axes else tiny.one_device()
    validation, notes = prepare_validation(config, mesh, tokens)
    assert validation is not None and not notes
    batches = list(validation.batches())
    assert [int(batch["has_image"].sum()) for batch in batches] == sizes
    assert all(len(batch["has_image"]) % mesh.size == 0 for batch in batches)
    shown = [
        study
        for batch in batches
        for study, counts in zip(batch["group_ids"][:, 0], batch["has_image"], strict=True)
        if counts
    ]
    assert len(set(shown)) == len(shown) == 16


def test_fewer_studies_than_asked_for_are_said(toy_config: Path, tmp_path: Path) -> None:
    config, tokens = toy(toy_config, tmp_path, "--config.data.validation_examples=500")
    validation, notes = prepare_validation(config, tiny.one_device(), tokens)
    assert validation is not None and validation.num_rows == 16
    assert notes == [
        "validation is on 16 rows, all there are (config.data.validation_examples is 500)"
    ]


def info_nce(images: np.ndarray, texts: np.ndarray, temperature: float) -> np.ndarray:
    """The loss of each row, in NumPy and float64; no two rows are siblings."""
    logits = images.astype(np.float64) @ texts.astype(np.float64).T / temperature
    by_image = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    by_text = np.log(np.exp(logits).sum(axis=0)) - np.diag(logits)
    return (by_image + by_text) / 2


def test_the_mean_of_ragged_batches_is_numpys_over_all_rows(tokens: Tokenizer) -> None:
    config = tiny.tiny_config("convirt", **{"objectives.contrastive.image_to_text_weight": 0.5})
    state, _ = tiny.start(config, tokens)
    model, masks = tiny.model_and_masks(config, tokens)
    step = jax.jit(make_eval_step(model, config, masks, tiny.one_device()))
    rows = tiny.batch(tokens, 10)
    parts = [{k: v[a:b] for k, v in rows.items()} for a, b in ((0, 4), (4, 8), (8, 10))]
    expected = []
    for part in parts:
        outputs = model.apply(state.evaluation_variables, tiny.masked(config, masks, part))
        embeddings = (np.asarray(outputs[f"{side}_embeddings"]) for side in ("image", "text"))
        expected += list(info_nce(*embeddings, float(outputs["temperature"])))
    validation = Validation(config, tiny.one_device(), tokens, 10, 4, 8)
    mean = validation.mean(step(state, filled_up(part, 8)) for part in parts)
    assert mean["loss"] == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize(
    "name",
    [name for name, objective in objectives.OBJECTIVES.items() if objective.count_fn is None],
)
def test_a_row_without_another_to_compare_with_does_not_count(name: str) -> None:
    config = tiny.tiny_config("convirt").objectives
    config.contrastive.weight, config[name].weight = 0.0, 1.0

    def count(num_pairs: int) -> int:
        shown = jnp.arange(4) < num_pairs
        labels = jnp.ones((4, tiny.LABELS))
        batch = {"has_image": shown, "has_text": shown, "labels": labels}
        return int(objectives.entry_counts(batch, config)[f"{name}/num_entries"])

    assert count(0) == count(1) == 0
    rows_of_a_pair = 2 if name == "soft_contrastive" else 1
    assert count(2) == 2 * rows_of_a_pair and count(3) == 3 * rows_of_a_pair


def test_means_weigh_batches_by_what_they_count() -> None:
    config = tiny.tiny_config("radtex").objectives
    batches = [
        {"captioning/loss": 1.0, "captioning/num_entries": 3.0, "loss": 1.0},
        {"captioning/loss": 5.0, "captioning/num_entries": 1.0, "loss": 5.0},
        {"captioning/loss": float("nan"), "captioning/num_entries": 0.0, "loss": 0.0},
    ]
    assert objectives.mean_metrics(batches, config) == {"captioning/loss": 2.0, "loss": 2.0}
    assert objectives.mean_metrics(batches[2:], config) == {}


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("--config.data.validation_examples=0", "config.data.validation_examples is 0"),
        ("--config.data.validation_examples=1", "a batch shows a single study"),
        ("--config.validation_batch_size=1", "a batch shows a single study"),
    ],
)
def test_a_plateau_without_validation_is_refused(
    toy_config: Path, tmp_path: Path, override: str, reason: str
) -> None:
    config, tokens = toy(toy_config, tmp_path, override)
    validation, notes = prepare_validation(config, tiny.one_device(), tokens)
    assert validation is None
    assert len(notes) == 1 and reason in notes[0] and "there is no validation" in notes[0]
    config.schedule.name = "plateau"
    with pytest.raises(UserError, match=f"plateau follows the validation loss.*{reason}"):
        prepare_validation(config, tiny.one_device(), tokens)
