"""The model card of an export: what it is, how to load it, its data, its figures, its limits."""

import json
from pathlib import Path
from typing import Any

import jinja2

import medclip_jax
from medclip_jax.data.augment import Augmentation
from medclip_jax.data.datasets import open_builder
from medclip_jax.errors import UserError
from medclip_jax.evaluate.table import (
    ONE_PATIENT,
    baselines_in,
    protocol_words,
    short_title,
    shown_metrics,
)
from medclip_jax.inference.encoder import Encoder
from medclip_jax.report.run_files import Evaluation, read_evaluations
from medclip_jax.report.tables import config_rows, metric_rows
from medclip_jax.report.weights import Weights, choose, describe_weights

_TFDS_CATALOG = "tensorflow.org/datasets/catalog"
_LIBRARIES = {"huggingface": "transformers", "safetensors": "medclip_jax"}


def write_model_card(encoder: Encoder, checkpoint: Path, format_name: str, output: Path) -> None:
    """Writes `README.md` into an export, from the run's config, sets and evaluations.

    Args:
        encoder: the model.
        checkpoint: the run's workdir.
        format_name: of the export.
        output: its directory, with all other files.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medclip_jax.convert", ""),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    weights = Weights(encoder.step, encoder.weights_hash)
    chosen = choose(read_evaluations(checkpoint), weights)
    text = environment.get_template("model_card.md.jinja").render(
        name=checkpoint.resolve().name,
        version=medclip_jax.__version__,
        library=_LIBRARIES.get(format_name, format_name),
        format=format_name,
        step=encoder.step,
        files={path.name for path in output.iterdir()},
        config=encoder.config,
        settings=config_rows(encoder.config.to_dict()),
        config_json=_config_json(encoder.config.to_dict()),
        augmentation=Augmentation.from_config(encoder.config.augmentation),
        data=[_describe(*_set) for _set in _sets(encoder.config)],
        evaluations=[_measures(evaluation, weights) for evaluation in chosen.shown],
        left_out=chosen.note,
        is_dual_encoder=_is_dual_encoder(output),
    )
    (output / "README.md").write_text(text, encoding="utf-8")


def _config_json(config: dict[str, Any]) -> str:
    """The config without the folder of the data, which is of this machine alone."""
    return json.dumps(config | {"data": config["data"] | {"data_dir": ""}}, indent=2)


def _sets(config: Any) -> list[tuple[str, str, str]]:
    """Name, share and directory of the sets of a run."""
    data = config.data
    if not data.mixture:
        return [(data.dataset, "all", data.data_dir)]
    return [
        (name, f"weight {weight:g}" + "".join(f", {part}s only" for part in part), data.data_dir)
        for name, weight, *part in data.mixture
    ]


def _describe(name: str, share: str, data_dir: str) -> dict[str, str]:
    """What is known of a set; its licence is that of the prepared set, where it is here."""
    try:
        info = open_builder(name, data_dir or None).info
    except UserError:
        return {"name": name, "share": share, "licence": "see its source", "home": ""}
    licence = " ".join(info.metadata["licence"].split())
    home = info.homepage or ""
    home = "" if _TFDS_CATALOG in home else home  # what TFDS says of sets that name none
    return {"name": name, "share": share, "licence": licence, "home": home}


def _measures(evaluation: Evaluation, weights: Weights) -> dict[str, Any]:
    """The figures of an evaluation, but those of single labels."""
    shown = zip(shown_metrics(evaluation.metrics), metric_rows(evaluation), strict=True)
    return {
        "task": evaluation.task,
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "protocol_words": protocol_words(evaluation.protocol),
        "weights": describe_weights(evaluation, weights),
        "num_examples": evaluation.num_examples,
        "num_patients": evaluation.num_patients,
        "intervals": ONE_PATIENT
        if evaluation.num_patients == 1
        else "95 % intervals by bootstrap over patients.",
        "titles": [short_title(prefix) for prefix in baselines_in(evaluation.metrics)],
        "rows": [row for name, row in shown if "/" not in name],
    }


def _is_dual_encoder(output: Path) -> bool:
    config = output / "config.json"
    return config.is_file() and "vision-text-dual-encoder" in config.read_text()
