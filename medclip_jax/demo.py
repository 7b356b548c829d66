"""`medclip-jax demo`: build the synthetic set, pretrain, evaluate and report, in minutes."""

import importlib.util
import shutil
import time
from pathlib import Path

from medclip_jax.config import load_config
from medclip_jax.convert.export import export
from medclip_jax.data.build import build
from medclip_jax.evaluate.tasks import run_task
from medclip_jax.report.page import write_report
from medclip_jax.train.lock import only_run_in
from medclip_jax.train.loop import pretrain

DATASET = "synthetic_cxr/demo"
TASKS = ("retrieval", "zero-shot", "linear-probe")


def run_demo(workdir: Path) -> None:
    """Does the whole job below `workdir`; started again, it goes on where it stopped."""
    started = time.monotonic()
    data_dir = workdir / "data"
    _say(f"1/5  generating the dataset {DATASET}")
    with only_run_in(data_dir):
        print(build(DATASET, data_dir=data_dir))
    _say("2/5  pretraining a small ConVIRT from scratch")
    config = load_config("convirt.py:demo")
    config.data.dataset = DATASET
    config.data.data_dir = str(data_dir)
    pretrain(config, workdir)
    _say("3/5  evaluating on the test patients, beside random initialisation")
    for task in TASKS:
        run_task(task, workdir, DATASET, split="test", data_dir=data_dir)
    _say("4/5  exporting to PyTorch")
    _export(workdir)
    _say("5/5  writing the report")
    page = write_report(workdir)
    _say(f"done in {(time.monotonic() - started) / 60:.1f} minutes; open {page.absolute()}")


def _export(workdir: Path) -> None:
    """Writes the model for Transformers, and checks its outputs where PyTorch is."""
    output = workdir / "export"
    shutil.rmtree(output, ignore_errors=True)  # of an earlier demo
    has_torch = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    export(workdir, "huggingface", output, check=has_torch)
    if not has_torch:
        print("not checked, since PyTorch is not here: pip install 'medclip_jax[torch]', then")
        print(f"medclip-jax export --checkpoint {workdir} --format huggingface --verify --output …")


def _say(text: str) -> None:
    print(f"\n=== {text}", flush=True)
