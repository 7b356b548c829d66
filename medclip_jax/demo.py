"""`medclip-jax demo`: build the synthetic set, pretrain, evaluate and report, in minutes."""

import time
from pathlib import Path

from medclip_jax.config import load_config
from medclip_jax.data.build import build
from medclip_jax.evaluate.tasks import run_task
from medclip_jax.report.page import write_report
from medclip_jax.train.loop import pretrain

DATASET = "synthetic_cxr/demo"
TASKS = ("retrieval", "zero-shot", "linear-probe")


def run_demo(workdir: Path) -> None:
    """Does the whole job below `workdir`; started again, it goes on where it stopped."""
    started = time.monotonic()
    data_dir = workdir / "data"
    _say(f"1/4  generating the dataset {DATASET}")
    print(build(DATASET, data_dir=data_dir))
    _say("2/4  pretraining a small ConVIRT from scratch")
    config = load_config("convirt.py:demo")
    config.data.dataset = DATASET
    config.data.data_dir = str(data_dir)
    pretrain(config, workdir)
    _say("3/4  evaluating on the test patients, beside random initialisation")
    for task in TASKS:
        run_task(task, workdir, DATASET, split="test", data_dir=data_dir)
    _say("4/4  writing the report")
    page = write_report(workdir)
    _say(f"done in {(time.monotonic() - started) / 60:.1f} minutes; open {page.absolute()}")


def _say(text: str) -> None:
    print(f"\n=== {text}", flush=True)
