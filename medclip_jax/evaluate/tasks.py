"""The evaluation tasks by name, and the one door to run any of them on a checkpoint."""

import dataclasses
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medclip_jax import __version__
from medclip_jax.errors import UserError
from medclip_jax.evaluate.options import check_options, flag
from medclip_jax.evaluate.request import Request
from medclip_jax.output_files import check_folder

if TYPE_CHECKING:
    from medclip_jax.evaluate.encode import Studies
    from medclip_jax.evaluate.result import EvaluationResult

_LABEL_OPTIONS = ("labels", "fractions", "num_seeds")
_TRAINING_OPTIONS = ("max_epochs", "learning_rate", "schedule")
# What every task takes besides.
COMMON_OPTIONS = ("tag", "seed", "num_resamples", "batch_size")
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
# Bytes of the name of a result's files; file systems take 255, with the ending and, while they are
# written, a process's number.
_LONGEST_NAME = 230


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
    which says more; one that the task has no use for is refused, and None is the default. Figures
    of the same protocol are replaced, and a line says so; those of another are never touched.

    Returns:
        The result and the path of its JSON.

    Raises:
        UserError: the task, an option, the checkpoint, the set or the split is not there, the
            output cannot be written, or the tag is that of another protocol's figures.
    """
    folder = Path(output or Path(checkpoint) / "evaluations")
    request = make_request(task, dataset, split, data_dir, folder, options)
    # Imported here so that naming the tasks, as --help does, is quick.
    from medclip_jax.data.datasets import default_data_dir, open_split
    from medclip_jax.evaluate.dataset_hash import hash_studies
    from medclip_jax.evaluate.encode import with_batch_size
    from medclip_jax.evaluate.replacing import describe_replaced, require_same_protocol
    from medclip_jax.evaluate.table import print_result
    from medclip_jax.inference import load

    require_same_protocol(request)
    if output or Path(checkpoint).is_dir():
        check_folder(folder, "--output")
    module = importlib.import_module(f"medclip_jax.evaluate.{TASKS[task][0]}")
    encoder = with_batch_size(load(checkpoint), request)
    opened: dict[str, Studies] = {}

    def open_studies(name: str) -> "Studies":
        opened[name] = open_split(dataset, name, data_dir)
        return opened[name]

    result = module.evaluate(encoder, open_studies, request)
    protocol = {
        "task": task,
        "checkpoint": Path(checkpoint).absolute(),
        "step": encoder.step,
        "max_text_tokens": encoder.config.text_encoder.max_length,
        "random_initialization_seed": encoder.config.seed + request.seed,
        "medclip_jax": __version__,
        **dataclasses.asdict(request),
        "differences": request.differences,
        "data_dir": os.path.abspath(default_data_dir(data_dir)),
    }
    result = dataclasses.replace(
        result,
        protocol=protocol | result.protocol,
        weights_hash=getattr(encoder, "weights_hash", None),
        dataset_hash=hash_studies(opened[split]),
    )
    # Before anything is written, so that a full disk does not cost the figures.
    print_result(result, f"{task} on {dataset}, {split} split")
    replaced = describe_replaced(request, result)
    path = result.write_or_rescue(request)
    print(f"written to {path}" + (f"; {replaced}" if replaced else ""))
    return result, path


def make_request(
    task: str,
    dataset: str,
    split: str,
    data_dir: Path | None,
    output: Path,
    options: Mapping[str, Any],
) -> Request:
    """The request of a task, tagged unless its protocol is the default.

    Raises:
        UserError: the task is unknown, it does not take an option, or has no use for its value;
            or the files' names would be too long.
    """
    if task not in TASKS:
        raise UserError(f"no task {task!r}; there are {', '.join(TASKS)}")
    given = {name: value for name, value in options.items() if value is not None}
    known = (*TASKS[task][1], *COMMON_OPTIONS)
    for name in given:
        if name not in known:
            raise UserError(
                f"{task} has no option {flag(name)}; it has {', '.join(map(flag, known))}"
            )
    request = Request(
        dataset=dataset,
        split=split,
        data_dir=data_dir,
        output=output,
        task=task,
        **check_options(given),
    )
    request = request.tagged()
    length = len(os.fsencode(request.name))
    if length > _LONGEST_NAME:
        raise UserError(
            f"the files {request.name[:60]}… would have names of {length} bytes, but "
            f"{_LONGEST_NAME} are possible: give a shorter --tag, or build the set by a shorter "
            "name"
        )
    return request
