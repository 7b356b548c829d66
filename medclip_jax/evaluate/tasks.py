"""The evaluation tasks by name, and the one door to run any of them on a checkpoint."""

import dataclasses
import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medclip_jax import __version__
from medclip_jax.errors import UserError
from medclip_jax.evaluate.request import Request

if TYPE_CHECKING:
    from medclip_jax.evaluate.result import EvaluationResult

# Task to the module of this package whose `evaluate` runs it, and the options it takes.
TASKS = {
    "retrieval": ("retrieval", ("queries", "image_root")),
    "zero-shot": ("zero_shot", ("labels", "prompts")),
    "linear-probe": ("linear_probe", ("labels",)),
}


def run_task(
    task: str,
    checkpoint: Path,
    dataset: str,
    *,
    split: str = "test",
    data_dir: Path | None = None,
    output: Path | None = None,
    labels: Sequence[str] = (),
    prompts: Path | None = None,
    queries: Sequence[Path] = (),
    image_root: Path | None = None,
) -> "tuple[EvaluationResult, Path]":
    """Evaluates a run's workdir or an export, prints the figures and writes them.

    They go to `output`, or to `checkpoint/evaluations`. The other arguments are the fields of
    `Request`, which says more; an option that the task has no use for is refused.

    Returns:
        The result and the path of its JSON.

    Raises:
        UserError: the task, an option, the checkpoint, the set or the split is not there.
    """
    options = {"labels": labels, "prompts": prompts, "queries": queries, "image_root": image_root}
    request = make_request(task, dataset, split, data_dir, options)
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
    path = result.write(Path(output or Path(checkpoint) / "evaluations"), task, dataset, split)
    print_result(result, f"{task} on {dataset}, {split} split")
    print(f"written to {path}")
    return result, path


def make_request(
    task: str, dataset: str, split: str, data_dir: Path | None, options: Mapping[str, Any]
) -> Request:
    """The request of a task; raises a UserError for an unknown task or an option it has not."""
    if task not in TASKS:
        raise UserError(f"no task {task!r}; there are {', '.join(TASKS)}")
    given = {name: value for name, value in options.items() if value}
    for name in given:
        if name not in TASKS[task][1]:
            flags = ", ".join("--" + option.replace("_", "-") for option in TASKS[task][1])
            raise UserError(f"{task} has no option --{name.replace('_', '-')}; it has {flags}")
    return Request(dataset=dataset, split=split, data_dir=data_dir, **given)
