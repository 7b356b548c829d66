"""`launch/slurm.sbatch` with stand-ins for SLURM's commands: tasks, signals, the queue."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import commands

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "slurm.sbatch"
# Starts two tasks as SLURM does, on this machine, and ends with the highest of their statuses.
SRUN = """#!/usr/bin/env bash
trap 'kill -KILL $(cat "$STUBS"/task*)' TERM  # as srun does
echo "srun $*" >>"$STUBS/calls"
while [[ $1 == --* ]]; do shift; done
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_STEP_NODELIST=localhost SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
  echo $! >"$STUBS/task$task"
done
status=0
for task in "$STUBS"/task*; do
  wait "$(cat "$task")"; ended=$?
  [ $ended -le $status ] || status=$ended
done
exit $status
"""
# Signals the tasks, not srun nor the batch script, as SLURM's does where a signal is named.
SCANCEL = """#!/usr/bin/env bash
echo "scancel $*" >>"$STUBS/calls"
kill "-${1#--signal=}" $(cat "$STUBS"/task*)
"""
SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >>"$STUBS/calls"
[ "$1" != show ] || echo "JobId=7 JobState=${STATE:-RUNNING} Requeue=1"
"""
# Stands for the training in most tests: TASK says what it does.
PYTHON = """#!/usr/bin/env bash
[ "$1" = launch/pretrain.py ] || exit 99
eval "$TASK"
"""
SHOW_STATE = "scontrol show job --oneliner 7"


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    folder = tmp_path / "stubs"
    folder.mkdir()
    for name, text in {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def submit(stubs: Path, *arguments: str, task: str = "", **env: str) -> subprocess.Popen[str]:
    if task:
        (stubs / "python").write_text(PYTHON)
        (stubs / "python").chmod(0o755)
    path = f"{stubs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "STUBS": str(stubs), "TASK": task}
    return subprocess.Popen(
        [SCRIPT, *arguments],
        cwd=ROOT,
        env=commands.environment() | slurm | {"PATH": path} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def calls(stubs: Path) -> list[str]:
    """What was asked of SLURM after srun."""
    return (stubs / "calls").read_text().splitlines()[1:]


def test_two_tasks_with_the_arguments_and_jax_to_find_slurm(stubs: Path) -> None:
    show = 'echo "$SLURM_PROCID $MEDCLIP_JAX_DISTRIBUTED ${*:2}"'
    process = submit(stubs, "c.py", "/w", "--config.x=a b", task=show, SLURM_CPUS_PER_TASK="8")
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert sorted(output.splitlines()) == [f"{i} auto c.py /w --config.x=a b" for i in range(2)]
    first = (stubs / "calls").read_text().split()
    assert {"--cpus-per-task=8", "--gpu-bind=none", "--kill-on-bad-exit=0"} <= set(first)
    assert calls(stubs) == []  # complete: not back into the queue


def test_a_wrong_call_is_one_line(stubs: Path) -> None:
    process = submit(stubs, "c.py")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors.startswith("usage: sbatch launch/slurm.sbatch") and errors.count("\n") == 1


def test_a_mistake_is_not_tried_again(stubs: Path) -> None:
    process = submit(stubs, "c.py", "/w", task="exit 2")
    process.communicate(timeout=20)
    assert process.returncode == 2 and calls(stubs) == []


@pytest.mark.parametrize(
    "task", ["exit 75", "exit 134", '[ "$SLURM_PROCID" = 0 ] || exit 75'], ids=str
)
def test_what_was_stopped_or_failed_goes_back_into_the_queue(stubs: Path, task: str) -> None:
    process = submit(stubs, "c.py", "/w", task=task, SLURM_RESTART_COUNT="3")
    _, errors = process.communicate(timeout=20)
    assert calls(stubs) == [SHOW_STATE, "scontrol requeue 7"]
    assert "back into the queue" in errors


def test_faults_without_end_are_given_up_but_not_preemptions(stubs: Path) -> None:
    limit = {"SLURM_RESTART_COUNT": "4", "MAX_RESTARTS": "4"}
    process = submit(stubs, "c.py", "/w", task="exit 9", **limit)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 9 and calls(stubs) == []
    assert "giving up" in errors
    submit(stubs, "c.py", "/w", task="exit 75", **limit).communicate(timeout=20)
    assert "scontrol requeue 7" in calls(stubs)


def test_a_cancelled_job_stays_cancelled(stubs: Path) -> None:
    process = submit(stubs, "c.py", "/w", task="exit 75", STATE="CANCELLED")
    process.communicate(timeout=20)
    assert process.returncode == 75 and calls(stubs) == [SHOW_STATE]


def test_sigterm_to_the_script_lets_all_tasks_save(stubs: Path) -> None:
    saves = (
        'trap "sleep 1; touch $STUBS/saved$SLURM_PROCID; exit 75" TERM; '
        "touch $STUBS/started$SLURM_PROCID; while true; do sleep 0.1; done"
    )
    process = submit(stubs, "c.py", "/w", task=saves)
    while len(list(stubs.glob("started*"))) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert len(list(stubs.glob("saved*"))) == 2
    assert calls(stubs) == ["scancel --signal=TERM 7", SHOW_STATE, "scontrol requeue 7"]


def test_slurm_reads_what_the_script_asks_for() -> None:
    lines = [line for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH ")]
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines)
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert options["signal"] == "TERM@180" and "requeue" in options
    # SLURM stops looking at the first line that is a command.
    before = SCRIPT.read_text().partition("\nset -uo")[0].splitlines()
    assert all(line.startswith("#") or not line for line in before)


@pytest.mark.slow
def test_two_tasks_train_as_one_run(stubs: Path, toy_config: Path, tmp_path: Path) -> None:
    job = str(random.randrange(2**12))  # JAX makes its port of it
    flags = ("--config.num_steps=2", "--config.data.validation_examples=0")
    process = submit(stubs, str(toy_config), str(tmp_path / "w"), *flags, SLURM_JOB_ID=job)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert [line["step"] for line in commands.metrics(tmp_path / "w")] == [1, 2]
