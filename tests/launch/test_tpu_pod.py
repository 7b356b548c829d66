"""`launch/tpu_pod.sh` with a stand-in for gcloud: the order of its calls, faults, preemptions."""

import os
import shlex
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "tpu_pod.sh"
ARGUMENTS = ("pod", "us-west4-a", "v5litepod-16", "configs/convirt.py", "/mnt/runs/one")
# The pod's states and the statuses of the run are lines that tests write; the last one stays.
GCLOUD = """#!/usr/bin/env bash
next() {
  head -n 1 "$STUBS/$1"
  [ "$(wc -l <"$STUBS/$1")" -le 1 ] || sed -i 1d "$STUBS/$1"
}
shift 2  # compute tpus
line="$*"
echo "${line//$'\\n'/ }" >>"$STUBS/calls"
case $line in
  *"queued-resources list"*) next states | sed s/NONE// ;;
  *"queued-resources create"*) exit "$(next creations)" ;;
  *"tpu-vm scp"*) cp "$3" "$STUBS/package.tar.gz"; exit "$(next copies)" ;;
  *pkill*TERM*) touch "$STUBS/stopped" ;;
  *exec*launch/pretrain.py*)
    status=$(next statuses)
    if [ "$status" = wait ]; then
      touch "$STUBS/running"
      until [ -e "$STUBS/stopped" ] || ! kill -0 $PPID; do command -p sleep 0.05; done
      status=75
    fi
    exit "$status" ;;
esac
"""


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    for name, text in {"gcloud": GCLOUD, "sleep": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "calls").touch()
    script(tmp_path, states=["ACTIVE"], creations=["0"], copies=["0"], statuses=["0"])
    return tmp_path


def launch(stubs: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    path = {"PATH": f"{stubs}:{os.environ['PATH']}", "STUBS": str(stubs)}
    return subprocess.Popen(
        [SCRIPT, *arguments],
        env=os.environ | path | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, errors


def script(stubs: Path, **lines: list[str]) -> None:
    """Says in which states the pod will be found, or with which statuses runs will end."""
    for name, values in lines.items():
        (stubs / name).write_text("".join(f"{value}\n" for value in values))


def jobs(stubs: Path) -> list[str]:
    """The calls in order, each as one word; looking at the state is left out."""
    words = {
        "queued-resources create": "create",
        "queued-resources delete": "delete",
        "tpu-vm scp": "copy",
        "uv pip install": "install",
        "setup-of-mine": "setup",
        "pkill -TERM": "stop",
        "exec .venv/bin/python launch/pretrain.py": "run",
    }
    lines = (stubs / "calls").read_text().splitlines()
    return [word for line in lines for sign, word in words.items() if sign in line]


START = ["copy", "install", "setup", "run"]


def test_a_new_pod_is_asked_for_awaited_filled_and_used(stubs: Path) -> None:
    script(stubs, states=["NONE", "NONE", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    status, errors = finish(
        launch(stubs, *ARGUMENTS, "--config.x=a 'b'", TPU_SETUP="setup-of-mine")
    )
    assert status == 0
    assert jobs(stubs) == ["create", *START]
    assert "queued-resources delete pod --force --zone=us-west4-a" in errors  # it costs on
    calls = (stubs / "calls").read_text().splitlines()
    assert all("--zone=us-west4-a" in call for call in calls)
    assert all("--worker=all" in call for call in calls if "tpu-vm" in call)
    (create,) = (call for call in calls if "create" in call)
    for part in ("create pod", "--node-id=pod", "v5litepod-16", "v2-alpha-tpuv5-lite", "--spot"):
        assert part in create
    (run,) = (call for call in calls if "exec" in call)
    assert "MEDCLIP_JAX_DISTRIBUTED=auto" in run
    assert "pkill -KILL -F medclip_jax.pid python" in run.partition("exec")[0]
    remote = run.partition("launch/pretrain.py ")[2].partition(" --zone=")[0]
    assert shlex.split(remote) == ["configs/convirt.py", "/mnt/runs/one", "--config.x=a 'b'"]


def test_the_workers_get_the_checkout(stubs: Path) -> None:
    assert finish(launch(stubs, *ARGUMENTS))[0] == 0
    with tarfile.open(stubs / "package.tar.gz") as archive:
        names = archive.getnames()
    assert {"setup.py", "requirements.lock", "medclip_jax/cli.py", "launch/pretrain.py"} <= set(
        names
    )
    assert not any(name.startswith((".venv", ".git/", "runs")) for name in names)


def test_flags_and_software_can_be_chosen(stubs: Path) -> None:
    script(stubs, states=["NONE", "NONE", "ACTIVE"])
    chosen = {"TPU_FLAGS": "--reserved --best", "TPU_RUNTIME": "another"}
    assert finish(launch(stubs, *ARGUMENTS, **chosen))[0] == 0
    (create,) = (c for c in (stubs / "calls").read_text().splitlines() if "create" in c)
    assert "--reserved --best" in create and "--runtime-version=another" in create
    assert "--spot" not in create


@pytest.mark.parametrize("status", ["1", "75", "134", "255"])
def test_a_worker_that_fails_starts_all_again(stubs: Path, status: str) -> None:
    script(stubs, statuses=[status, status, "0"])
    code, errors = finish(launch(stubs, *ARGUMENTS, TPU_SETUP="setup-of-mine"))
    assert code == 0
    assert jobs(stubs) == [*START, "run", "run"]
    assert errors.count(f"status {status}: starting again") == 2


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_a_preempted_pod_is_made_again(stubs: Path, state: str) -> None:
    states = ["ACTIVE", "ACTIVE", state, "NONE", "WAITING_FOR_RESOURCES", "ACTIVE"]
    script(stubs, states=states, statuses=["255", "0"])
    assert finish(launch(stubs, *ARGUMENTS, TPU_SETUP="setup-of-mine"))[0] == 0
    assert jobs(stubs) == [*START, "delete", "create", *START]


def test_a_request_that_is_refused_ends_the_script_unless_there_was_a_pod(stubs: Path) -> None:
    script(stubs, states=["NONE"], creations=["1"])
    assert finish(launch(stubs, *ARGUMENTS))[0] == 1
    assert jobs(stubs) == ["create"]

    states = ["ACTIVE", "ACTIVE", "NONE", "NONE", "ACTIVE"]
    script(stubs, states=states, creations=["1", "0"], statuses=["255", "0"], calls=[])
    assert finish(launch(stubs, *ARGUMENTS))[0] == 0
    assert jobs(stubs) == ["copy", "install", "run", "create", "create", "copy", "install", "run"]


def test_a_copy_that_fails_is_done_again(stubs: Path) -> None:
    script(stubs, copies=["2", "0"])
    assert finish(launch(stubs, *ARGUMENTS, TPU_SETUP="setup-of-mine"))[0] == 0
    assert jobs(stubs) == ["copy", *START]


def test_a_mistake_is_not_tried_again(stubs: Path) -> None:
    script(stubs, statuses=["2"])
    assert finish(launch(stubs, *ARGUMENTS))[0] == 2
    assert jobs(stubs).count("run") == 1


def test_faults_without_end_are_given_up(stubs: Path) -> None:
    script(stubs, statuses=["75", "9"])
    status, errors = finish(launch(stubs, *ARGUMENTS, MAX_RESTARTS="3"))
    assert status == 9 and "giving up" in errors
    assert jobs(stubs).count("run") == 1 + 1 + 3  # the preemption does not count


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_which_saves(stubs: Path, number: signal.Signals) -> None:
    script(stubs, statuses=["wait"])
    process = launch(stubs, *ARGUMENTS)
    while not (stubs / "running").exists():
        time.sleep(0.05)
    process.send_signal(number)
    assert finish(process)[0] == 143
    assert jobs(stubs)[-2:] == ["run", "stop"]


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, "My_Pod", "NAME is My_Pod"),
        (1, "us-west4", "ZONE is us-west4"),
        (2, "a100", "TYPE is a100"),
        (4, "runs/one", "WORKDIR is runs/one"),
        (4, "gs://bucket/one", "WORKDIR is gs://bucket/one"),
    ],
)
def test_a_wrong_argument_is_one_line(stubs: Path, position: int, value: str, message: str) -> None:
    arguments = list(ARGUMENTS)
    arguments[position] = value
    status, errors = finish(launch(stubs, *arguments))
    assert status == 2
    assert message in errors and errors.count("\n") == 1
    assert not (stubs / "calls").read_text()


def test_too_few_arguments_are_one_line(stubs: Path) -> None:
    status, errors = finish(launch(stubs, *ARGUMENTS[:4]))
    assert status == 2 and "usage:" in errors and errors.count("\n") == 1


def test_gcloud_that_is_not_there_is_one_line(stubs: Path) -> None:
    (stubs / "gcloud").unlink()
    (stubs / "bash").symlink_to(shutil.which("bash"))
    status, errors = finish(launch(stubs, *ARGUMENTS, PATH=str(stubs)))
    assert status == 2 and "gcloud not found" in errors and errors.count("\n") == 1
