"""`make systems`: trains and evaluates every system on the synthetic set and prints one table.

Each system is the `:demo` variant of its config. Started again, it goes on where it stopped.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from medclip_jax import runtime
from medclip_jax.config import load_config
from medclip_jax.data.build import build
from medclip_jax.evaluate.tasks import make_request, run_task
from medclip_jax.train.loop import pretrain

DATASET = "synthetic_cxr/demo"
CONFIGS = ("convirt", "matching", "radtex", "mixed", "combined")
ENCODERS = ("convirt", "matching", "radtex")  # those of the three papers on few labels
BUDGETS = (0.01, 0.05, 0.25, 1.0)
# Of each system the evaluations, with their options.
EVALUATIONS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "convirt": (("retrieval", {}), ("zero-shot", {}), ("linear-probe", {})),
    "matching": (("retrieval", {"score": "matching"}), ("linear-probe", {})),
    "radtex": (("report-generation", {}), ("linear-probe", {})),
    "mixed": (("regeneration", {}), ("linear-probe", {})),
    "combined": (
        ("retrieval", {}),
        ("regeneration", {}),
        ("report-generation", {}),
        ("linear-probe", {}),
    ),
}
# By system and kind of evaluation, its file.
Results = dict[tuple[str, str], Path]
# (system, kind of evaluation, metric, what stands beside it)
FIGURES = (
    ("convirt", "retrieval", "text_to_image_recall@10", "chance/"),
    ("convirt", "zero-shot", "macro_auroc", "random_initialization/"),
    ("matching", "retrieval-matching", "matching_accuracy", "chance/"),
    ("matching", "retrieval-matching", "text_to_image_recall@10", "chance/"),
    ("matching", "retrieval-matching", "image_to_text_recall@10", "chance/"),
    ("radtex", "report-generation", "clinical_f1", "most_common_report/"),
    ("mixed", "regeneration", "error_reduction_vs_visible_mean", ""),
    ("mixed", "regeneration", "error_reduction_vs_inpainting", ""),
    ("mixed", "regeneration", "masked_word_accuracy/with_image", ""),
    ("mixed", "regeneration", "masked_word_accuracy/without_image", ""),
    ("mixed", "regeneration", "masked_word_accuracy_gain", ""),
    ("combined", "retrieval", "text_to_image_recall@10", "chance/"),
    ("combined", "report-generation", "clinical_f1", "most_common_report/"),
    ("combined", "regeneration", "error_reduction_vs_visible_mean", ""),
    *((name, "linear-probe", "macro_auroc", "random_initialization/") for name in CONFIGS),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table."""

    system: str
    metric: str
    value: float
    interval: tuple[float, float] | None
    beside: tuple[str, float] | None

    def __str__(self) -> str:
        interval = "" if self.interval is None else "({:.3f} to {:.3f})".format(*self.interval)
        beside = "" if self.beside is None else "{} {:.3f}".format(*self.beside)
        return f"{self.system:10} {self.metric:44} {self.value:8.3f} {interval:20} {beside}"


def main(workdir: Path, modes: tuple[str, ...]) -> None:
    """Trains, evaluates, prints the table and writes `systems.json`."""
    runtime.start()
    data_dir = workdir / "data"
    print(build(DATASET, data_dir=data_dir))
    for name in CONFIGS:
        _train(name, workdir, data_dir)
    results: Results = {}
    for name, evaluations in EVALUATIONS.items():
        for task, options in evaluations:
            _evaluate(task, workdir / name, data_dir, options, results)
    others = tuple(workdir / name for name in ENCODERS[1:])
    options = {"compare": others, "fractions": BUDGETS, "modes": modes}
    if "finetune" in modes:  # small networks: a tenfold rate, and a third of the epochs
        options |= {"max_epochs": 10, "learning_rate": 1e-3}
    _evaluate("label-efficiency", workdir / ENCODERS[0], data_dir, options, results)
    rows = [_row(results, *figure) for figure in (*FIGURES, *_efficiency_figures(modes))]
    rows += [
        Row(name, "seconds_of_training", _training_seconds(workdir / name), None, None)
        for name in CONFIGS
    ]
    print("\n" + "\n".join(map(str, rows)))
    content = [dataclasses.asdict(row) for row in rows]
    (workdir / "systems.json").write_text(json.dumps(content, indent=2) + "\n")
    print(f"written to {workdir / 'systems.json'}")


def _train(name: str, workdir: Path, data_dir: Path) -> None:
    """Trains a system, unless it is trained."""
    config = load_config(f"{name}.py:demo")
    config.data.data_dir = str(data_dir)
    print(f"\n=== training {name}", flush=True)
    pretrain(config, workdir / name)


def _training_seconds(run: Path) -> float:
    """The seconds that all steps and validations took, over every start of the run."""
    seconds, step = 0.0, 0
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        if "steps_per_second" in line:
            seconds += (line["step"] - step) / line["steps_per_second"]
            step = line["step"]
        seconds += line.get("evaluation_seconds", 0.0)
    return seconds


def _evaluate(
    task: str, run: Path, data_dir: Path, options: dict[str, Any], results: Results
) -> None:
    """Evaluates a system, unless it is evaluated, and notes where the figures are."""
    request = make_request(task, DATASET, "test", data_dir, run / "evaluations", options)
    path = request.output / f"{request.name}.json"
    if not path.exists():
        print(f"\n=== {run.name}: {task}", flush=True)
        run_task(task, run, DATASET, data_dir=data_dir, **options)
    results[run.name, request.kind] = path


def _row(results: Results, name: str, kind: str, metric: str, beside: str) -> Row:
    result = json.loads(results[name, kind].read_text())
    metrics = result["metrics"]
    found = (beside.rstrip("/").replace("_", " "), metrics[beside + metric]) if beside else None
    return Row(name, metric, metrics[metric], result["confidence_intervals"].get(metric), found)


def _efficiency_figures(modes: tuple[str, ...]) -> list[tuple[str, str, str, str]]:
    prefixes = ("", *(f"compare/{name}/" for name in ENCODERS[1:]))
    return [
        (ENCODERS[0], "label-efficiency", f"{prefix}label_reduction@{mode}", "")
        for mode in modes
        for prefix in prefixes
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/systems"))
    parser.add_argument("--modes", default="linear", help="linear, or linear,finetune")
    arguments = parser.parse_args()
    main(arguments.workdir, tuple(arguments.modes.split(",")))
