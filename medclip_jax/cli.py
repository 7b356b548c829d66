"""`medclip-jax`: one door, a subcommand for each job. Help does not import JAX."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from medclip_jax import __version__
from medclip_jax.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one subcommand; exits with 2 and one line where the input is wrong."""
    try:
        parsed, overrides = _parser().parse_known_args(arguments)
        if parsed.run not in (_pretrain, _data_build):  # which know more arguments than the parser
            _refuse(overrides, f"{parsed.command} --help")
        parsed.overrides = overrides
        parsed.run(parsed)
    except UserError as error:
        print(f"medclip-jax: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()


def _refuse(arguments: Sequence[str], help_command: str) -> None:
    if arguments:
        raise UserError(f"unknown argument {arguments[0]}; see medclip-jax {help_command}")


class _Parser(argparse.ArgumentParser):
    """Reports a wrong call as one line, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="medclip-jax", description="Chest X-ray image-text pretraining in JAX.")
    parser.add_argument("--version", action="version", version=f"medclip-jax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="the whole job on synthetic X-rays, in minutes")
    demo.add_argument("--workdir", type=Path, default=Path("runs/demo"), metavar="DIR")
    demo.set_defaults(run=_demo)

    _add_data(commands.add_parser("data", help="prepare and describe datasets"))

    pretrain = commands.add_parser("pretrain", help="train; resumes by itself")
    pretrain.add_argument(
        "--config", required=True, metavar="X.py[:arg]", help="change keys with --config.key=value"
    )
    pretrain.add_argument("--workdir", type=Path, metavar="DIR")
    pretrain.add_argument(
        "--plan",
        type=int,
        nargs="?",
        const=0,
        metavar="N",
        help="only print the memory, FLOPs and transfers of a step on N devices (default: these)",
    )
    pretrain.add_argument(
        "--from-step",
        type=int,
        metavar="N",
        help="go back to the checkpoint of step N, and on from there; later ones are set aside",
    )
    pretrain.set_defaults(run=_pretrain)

    _add_evaluate(commands.add_parser("evaluate", help="measure what was learned"))

    embed = commands.add_parser("embed", help="embeddings of images or texts, to a file")
    embed.add_argument("--checkpoint", type=Path, required=True, metavar="DIR")
    source = embed.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", metavar="GLOB_OR_CSV", help="a CSV has a column image_path")
    source.add_argument("--texts", type=Path, metavar="FILE", help="one text a line")
    embed.add_argument("--output", type=Path, required=True, metavar="FILE.npz|.parquet")
    embed.add_argument(
        "--max-rejected",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of images (default: 0.01)",
    )
    embed.set_defaults(run=_embed)

    export = commands.add_parser("export", help="the weights for PyTorch, Hugging Face or yourself")
    export.add_argument("--checkpoint", type=Path, required=True, metavar="DIR")
    export.add_argument(
        "--format", required=True, metavar="torchvision|timm|huggingface|safetensors"
    )
    export.add_argument("--output", type=Path, required=True, metavar="DIR")
    export.add_argument(
        "--verify", action="store_true", help="run PyTorch on it and compare every output"
    )
    export.set_defaults(run=_export)

    report = commands.add_parser("report", help="an HTML page of a run")
    report.add_argument("--workdir", type=Path, required=True, metavar="DIR")
    report.set_defaults(run=_report)
    return parser


def _add_data(data: argparse.ArgumentParser) -> None:
    commands = data.add_subparsers(dest="data_command", required=True, metavar="build|info")
    build = commands.add_parser(
        # No abbreviations: a set's --labels is not our --labels-from.
        "build",
        help="prepare a dataset",
        add_help=False,
        allow_abbrev=False,
    )
    build.add_argument("dataset", metavar="NAME[/CONFIG]", help="`manifest` for your own data")
    build.add_argument(
        "-h", "--help", action=_BuildHelp, nargs=0, help="with NAME: its options too"
    )
    build.add_argument("--manual-dir", type=Path, metavar="DIR", help="what you downloaded")
    build.add_argument("--data-dir", type=Path, metavar="DIR")
    build.add_argument(
        "--max-rejected", type=float, default=0.01, metavar="SHARE", help="of rows (default: 0.01)"
    )
    build.add_argument("--beam-runner", metavar="RUNNER", help="read on Apache Beam: DirectRunner")
    build.add_argument(
        "--beam-options", type=_list_of(str), default=(), metavar="a=b,c=d", help="of that runner"
    )
    own = build.add_argument_group("manifest", "your own images, texts and labels")
    own.add_argument("--name", metavar="NAME", help="used as manifest/NAME afterwards")
    own.add_argument("--manifest", type=Path, metavar="FILE.csv|.jsonl")
    own.add_argument("--image-root", type=Path, metavar="DIR")
    labels = own.add_mutually_exclusive_group()
    labels.add_argument("--label-columns", metavar="a,b", help="1, 0, -1 (uncertain) or empty")
    labels.add_argument("--labels-from", metavar="COLUMN", help="labels joined by |")
    build.set_defaults(run=_data_build)

    info = commands.add_parser("info", help="what a prepared dataset holds")
    info.add_argument("dataset", metavar="NAME")
    info.add_argument("--data-dir", type=Path, metavar="DIR")
    info.set_defaults(run=_data_info)


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    from medclip_jax.evaluate.request import CHOICES
    from medclip_jax.evaluate.tasks import TASKS

    evaluate.add_argument("task", metavar="TASK", help=", ".join(TASKS))
    evaluate.add_argument("--checkpoint", type=Path, required=True, metavar="DIR")
    evaluate.add_argument("--dataset", required=True, metavar="NAME[/CONFIG]")
    evaluate.add_argument("--split", default="test", metavar="S")
    evaluate.add_argument("--data-dir", type=Path, metavar="DIR")
    evaluate.add_argument("--output", type=Path, metavar="DIR", help="default: the workdir's own")
    evaluate.add_argument(
        "--tag", metavar="NAME", help="ends the names of the files, to keep several protocols apart"
    )
    evaluate.add_argument("--seed", type=int, metavar="N", help="of every draw (default: 0)")
    evaluate.add_argument(
        "--num-resamples", type=int, metavar="N", help="of the bootstrap (default: 1000)"
    )
    evaluate.add_argument(
        "--batch-size", type=int, metavar="N", help="of encoding and fine-tuning (default: 64)"
    )
    texts, numbers, integers = (_list_of(kind) for kind in (str, float, int))
    labels = evaluate.add_argument_group("zero-shot, linear-probe, finetune, label-efficiency")
    labels.add_argument("--labels", type=texts, metavar="a,b", help="only these labels")
    labels.add_argument("--prompts", type=Path, metavar="FILE.json", help="zero-shot")
    labels.add_argument(
        "--fractions", type=numbers, metavar="0.01,0.1,1", help="label budgets; above 1 a count"
    )
    labels.add_argument("--num-seeds", type=int, metavar="N", help="draws of each label budget")
    labels.add_argument(
        "--compare", type=Path, nargs="+", metavar="DIR", help="label-efficiency: other checkpoints"
    )
    labels.add_argument("--max-epochs", type=int, metavar="N", help="of fine-tuning")
    labels.add_argument("--learning-rate", type=float, metavar="R", help="of fine-tuning")
    labels.add_argument("--schedule", metavar="|".join(CHOICES["schedule"]), help="of that rate")
    labels.add_argument("--modes", type=texts, metavar="|".join(CHOICES["modes"]))
    retrieval = evaluate.add_argument_group("retrieval")
    retrieval.add_argument("--score", metavar="|".join(CHOICES["score"]), help="what ranks pairs")
    retrieval.add_argument(
        "--queries", type=Path, nargs="+", metavar="FILE.csv", help="retrieval by class"
    )
    retrieval.add_argument(
        "--candidates", type=Path, metavar="FILE.csv", help="its images, in CheXpert's columns"
    )
    retrieval.add_argument(
        "--image-root", type=Path, metavar="DIR", help="of the queries' and candidates' images"
    )
    other = evaluate.add_argument_group("regeneration, report-generation")
    other.add_argument("--scales", type=integers, metavar="1,2,4", help="sides of masked blocks")
    other.add_argument("--ratios", type=numbers, metavar="0.25,0.5", help="shares of the patches")
    other.add_argument(
        "--method", metavar="|".join(CHOICES["method"]), help="how reports are written"
    )
    evaluate.set_defaults(run=_evaluate)


class _BuildHelp(argparse.Action):
    """Shows the options of `data build`, and those of the set if it is named before."""

    def __call__(self, parser: argparse.ArgumentParser, parsed: Any, *_: Any) -> None:
        parser.print_help()
        if parsed.dataset:
            from medclip_jax.data.build import options_parser

            print()
            options_parser(parsed.dataset.partition("/")[0]).print_help()
        parser.exit()


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """Reads values joined by commas."""

    def read(text: str) -> tuple[Any, ...]:
        return tuple(kind(part) for part in text.split(","))

    read.__name__ = f"list of {kind.__name__}"  # argparse names it in its message
    return read


def _import_runtime() -> ModuleType:
    """Imported before all that uses JAX, which reads its environment as it is imported."""
    try:
        from medclip_jax import runtime
    except ValueError as error:
        raise UserError(f"JAX refuses a variable of its environment: {error}") from None
    return runtime


def _demo(parsed: argparse.Namespace) -> None:
    runtime = _import_runtime()
    from medclip_jax.demo import run_demo

    runtime.start()
    run_demo(parsed.workdir)


def _data_build(parsed: argparse.Namespace) -> None:
    from absl import logging

    from medclip_jax.data import build

    logging.set_verbosity(logging.ERROR)  # TFDS tells of every own config
    set_name = parsed.dataset.partition("/")[0]
    options, unknown = build.options_parser(set_name).parse_known_args(parsed.overrides)
    _refuse(unknown, f"data build {set_name} --help")
    common = {
        "data_dir": parsed.data_dir,
        "options": vars(options),
        "max_rejected": parsed.max_rejected,
        "beam_runner": parsed.beam_runner,
        "beam_options": parsed.beam_options,
    }
    if parsed.dataset != "manifest":
        print(build.build(parsed.dataset, manual_dir=parsed.manual_dir, **common))
        return
    for flag in ("name", "manifest", "image_root"):
        if getattr(parsed, flag) is None:
            raise UserError(f"data build manifest needs --{flag.replace('_', '-')}")
    summary = build.build_manifest(
        parsed.name,
        parsed.manifest,
        parsed.image_root,
        label_columns=tuple(parsed.label_columns.split(",")) if parsed.label_columns else (),
        labels_from=parsed.labels_from,
        **common,
    )
    print(summary)


def _data_info(parsed: argparse.Namespace) -> None:
    from medclip_jax.data.info import describe

    print(describe(parsed.dataset, parsed.data_dir))


def _pretrain(parsed: argparse.Namespace) -> None:
    from medclip_jax.config import load_config

    _refuse([a for a in parsed.overrides if not a.startswith("--config.")], "pretrain --help")
    config = load_config(parsed.config, parsed.overrides)
    if parsed.plan is not None:
        _plan(config, parsed.plan)
        return
    if parsed.workdir is None:
        raise UserError("pretrain needs --workdir DIR; see medclip-jax pretrain --help")
    runtime = _import_runtime()
    from medclip_jax.train.faults import ends_at_once
    from medclip_jax.train.loop import pretrain

    runtime.start(**config.distributed)
    with ends_at_once(parsed.workdir):
        pretrain(config, parsed.workdir, parsed.from_step)


def _plan(config: Any, num_devices: int) -> None:
    runtime = _import_runtime()
    from medclip_jax.train import plan

    if num_devices:
        plan.use_devices(num_devices)
    runtime.start()
    print(plan.describe_plan(config))


def _evaluate(parsed: argparse.Namespace) -> None:
    runtime = _import_runtime()
    from medclip_jax.evaluate.tasks import COMMON_OPTIONS, TASKS, run_task

    runtime.start()
    options = {*COMMON_OPTIONS, *(name for _, names in TASKS.values() for name in names)}
    run_task(
        parsed.task,
        parsed.checkpoint,
        parsed.dataset,
        split=parsed.split,
        data_dir=parsed.data_dir,
        output=parsed.output,
        **{name: _tuple(getattr(parsed, name)) for name in sorted(options)},
    )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _embed(parsed: argparse.Namespace) -> None:
    runtime = _import_runtime()
    from medclip_jax.embed import embed_to_file

    runtime.start()
    embed_to_file(
        parsed.checkpoint,
        images=parsed.images,
        texts=parsed.texts,
        output=parsed.output,
        max_rejected=parsed.max_rejected,
    )


def _export(parsed: argparse.Namespace) -> None:
    runtime = _import_runtime()
    from medclip_jax.convert.export import export

    runtime.start()
    export(parsed.checkpoint, parsed.format, parsed.output, check=parsed.verify)


def _report(parsed: argparse.Namespace) -> None:
    runtime = _import_runtime()
    from medclip_jax.report.page import write_report

    runtime.start()  # the weights are read, to tell whose the figures are
    print(write_report(parsed.workdir))


if __name__ == "__main__":
    main()
