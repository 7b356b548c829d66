"""The evaluation tasks by name, and the one door to run any of them on a checkpoint."""

import dataclasses
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medclip_jax import __version__
from medclip_jax.errors import UserError
from medclip_jax.evaluate.request import CHOICES, Request

if TYPE_CHECKING:
    from medclip_jax.evaluate.result import EvaluationResult

_LABEL_OPTIONS = ("labels", "fractions", "num_seeds")
_TRAINING_OPTIONS = ("max_epochs", "learning_rate", "schedule")
# Task to the module of this package whose `evaluate` runs it, and the options it takes.
TASKS = {
    "retrieval": ("retrieval", ("queries", "candidates", "image_root", "score")),
    "zero-shot": ("zero_shot", ("labels", "prompts")),
    "linear-probe": ("linear_probe", _LABEL_OPTIONS),
    "finetune": ("finetune", (*_LABEL_OPTIONS, *_TRAINING_OPTIONS)),
    "label-efficiency": (
        "label_efficiency",
        (*_LABEL_OPTIONS, *_TRAINING_OPTIONS, "compare", "modes"),
    ),
    "regeneration": ("regeneration", ("scales", "ratios")),
    "report-generation": ("report_generation", ("method",)),
}


def run_task(
    task: str,
    checkpoint: Path,
    dataset: str,
    *,
    split: str = "test",
    data_dir: Path | None = None,
    output: Path | None = None,
    **options: Any,
) -> "tuple[EvaluationResult, Path]":
    """Evaluates a run's workdir or an export, prints the figures and writes them.

    They go to `output`, or to `checkpoint/evaluations`. The options are the fields of `Request`,
    which says more; one that the task has no use for is refused, and None is the default.

    Returns:
        The result and the path of its JSON.

    Raises:
        UserError: the task, an option, the checkpoint, the set or the split is not there.
    """
    output = Path(output or Path(checkpoint) / "evaluations")
    request = make_request(task, dataset, split, data_dir, output, options)
    # Imported here so that naming the tasks, as --help does, is quick.
    from medclip_jax.data.datasets import default_data_dir, open_split
    from medclip_jax.evaluate.table import print_result
    from medclip_jax.inference import load

    module = importlib.import_module(f"medclip_jax.evaluate.{TASKS[task][0]}")
    encoder = load(checkpoint)
    result = module.evaluate(encoder, lambda name: open_split(dataset, name, data_dir), request)
    protocol = {
        "task": task,
        "checkpoint": Path(checkpoint).absolute(),
        "step": encoder.step,
        "max_text_tokens": encoder.config.text_encoder.max_length,
        "medclip_jax": __version__,
        **dataclasses.asdict(request),
        "data_dir": os.path.abspath(default_data_dir(data_dir)),
    }
    result = dataclasses.replace(result, protocol=protocol | result.protocol)
    path = result.write(output, request.kind, dataset, split)
    print_result(result, f"{task} on {dataset}, {split} split")
    print(f"written to {path}")
    return result, path


def make_request(
    task: str,
    dataset: str,
    split: str,
    data_dir: Path | None,
    output: Path,
    options: Mapping[str, Any],
) -> Request:
    """The request of a task; raises a UserError for an unknown task or an option it has not."""
    if task not in TASKS:
        raise UserError(f"no task {task!r}; there are {', '.join(TASKS)}")
    given = {name: value for name, value in options.items() if value not in (None, ())}
    for name in given:
        if name not in TASKS[task][1]:
            flags = ", ".join(map(_flag, TASKS[task][1]))
            raise UserError(f"{task} has no option {_flag(name)}; it has {flags}")
    for name, allowed in CHOICES.items():
        chosen = given.get(name, ())
        for value in (chosen,) if isinstance(chosen, str) else chosen:
            if value not in allowed:
                raise UserError(f"{_flag(name)} is {value!r}; give one of {', '.join(allowed)}")
    return Request(
        dataset=dataset, split=split, data_dir=data_dir, output=output, task=task, **given
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
