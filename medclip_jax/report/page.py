"""Writes the report of a run: one HTML page that needs no other file and no network."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jinja2

from medclip_jax import __version__
from medclip_jax.errors import UserError
from medclip_jax.evaluate.table import ONE_PATIENT, protocol_words
from medclip_jax.output_files import check_folder
from medclip_jax.report import pictures, tables
from medclip_jax.report.charts import roc_chart, training_chart
from medclip_jax.report.run_files import Evaluation, RunFiles, read_run
from medclip_jax.report.weights import Weights, choose, describe_weights, saved_weights

_TITLES = {
    "zero-shot": "Zero-shot classification",
    "linear-probe": "Linear probe",
    "finetune": "Fine-tuning",
}
_OTHER_TITLES = {
    "label-efficiency": "Label efficiency",
    "regeneration": "Regeneration",
    "report-generation": "Report generation",
}


def write_report(workdir: Path) -> Path:
    """Writes `workdir/report.html`; parts that the run does not have yet are left out.

    Raises:
        UserError: the workdir is not that of a run that has trained, a file is damaged, or the page
            cannot be written.
    """
    workdir = Path(workdir)
    run = read_run(workdir)
    check_folder(workdir, "--workdir")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medclip_jax.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    weights = saved_weights(workdir) if run.evaluations else None
    page = environment.get_template("page.html.jinja").render(_context(run, weights))
    path = workdir / "report.html"
    temporary = workdir / f".report.{os.getpid()}.html"
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _context(run: RunFiles, weights: Weights | None) -> dict[str, Any]:
    chosen = choose(run.evaluations, weights)
    run = dataclasses.replace(run, evaluations=chosen.shown)
    parts = {
        "retrievals": [_retrieval(evaluation) for evaluation in run.of_task("retrieval")],
        "classifications": [
            _classification(evaluation) for task in _TITLES for evaluation in run.of_task(task)
        ],
        "others": [
            _other(evaluation) for task in _OTHER_TITLES for evaluation in run.of_task(task)
        ],
    }
    return parts | {
        "name": run.name,
        "version": __version__,
        "last_step": int(run.lines[-1]["step"]),
        "headlines": tables.headlines(run),
        "config_rows": _config_rows(run),
        "config_json": json.dumps(run.config, indent=2),
        "training_chart": training_chart(run),
        "final": _final_losses(run),
        "weights": {
            evaluation.name: describe_weights(evaluation, weights) for evaluation in run.evaluations
        },
        "left_out": chosen.note,
    }


def _config_rows(run: RunFiles) -> list[tuple[str, str]]:
    """The rows of a config that may be of another version, or damaged."""
    try:
        return tables.config_rows(run.config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"config.json of {run.name} is no run's config: restore it") from error


def _final_losses(run: RunFiles) -> dict[str, float]:
    series = {"training": run.series("loss")[1], "validation": run.series("validation/loss")[1]}
    return {name: values[-1] for name, values in series.items() if values}


def _retrieval(evaluation: Evaluation) -> dict[str, Any]:
    score = evaluation.protocol.get("score", "embeddings")
    return _common(evaluation) | {
        "title": "Retrieval" if score == "embeddings" else f"Retrieval by {score}",
        "rows": tables.metric_rows(evaluation),
        **_pictures(
            evaluation,
            "text_to_image_neighbors",
            text_queries=pictures.text_queries,
            image_queries=pictures.image_queries,
        ),
    }


def _classification(evaluation: Evaluation) -> dict[str, Any]:
    return _common(evaluation) | {
        "title": _TITLES[evaluation.task],
        "rows": tables.label_rows(evaluation),
        "roc_chart": roc_chart(evaluation),
        **_pictures(evaluation, "scores", hits_and_misses=pictures.hits_and_misses),
    }


def _other(evaluation: Evaluation) -> dict[str, Any]:
    drawn = sorted(evaluation.folder.glob("*.png"))
    return _common(evaluation) | {
        "title": _OTHER_TITLES[evaluation.task],
        "rows": tables.metric_rows(evaluation),
        "figures": [pictures.data_uri(path.read_bytes(), "png") for path in drawn],
    }


def _common(evaluation: Evaluation) -> dict[str, Any]:
    facts = dataclasses.asdict(dataclasses.replace(evaluation, arrays={}))
    return {
        "name": evaluation.name,
        "task": evaluation.task,
        "protocol_words": protocol_words(evaluation.protocol),
        "note_of_patients": ONE_PATIENT if evaluation.num_patients == 1 else "",
        "baselines": tables.baseline_titles(evaluation),
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "num_examples": evaluation.num_examples,
        "num_patients": evaluation.num_patients,
        "gallery_size": evaluation.protocol.get("gallery_size"),
        "protocol_json": json.dumps(facts["protocol"], indent=2, ensure_ascii=False),
    }


def _pictures(evaluation: Evaluation, needed: str, **makers: Any) -> dict[str, Any]:
    """Each maker's pictures, or a note where the images cannot be read any more."""
    nothing: dict[str, Any] = dict.fromkeys(makers, [])
    if needed not in evaluation.arrays:
        return nothing | {"note": ""}
    try:
        source = pictures.StudyPictures(evaluation)
        return {name: make(evaluation, source) for name, make in makers.items()} | {"note": ""}
    except UserError as error:
        return nothing | {"note": f"No pictures: {error}"}
