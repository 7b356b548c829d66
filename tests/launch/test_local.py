"""`launch/local.sh`: the variables of its processes, the status of a failure, signals."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "local.sh"


def launch(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [SCRIPT, *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_each_process_knows_its_place() -> None:
    show = "echo $JAX_PROCESS_ID $JAX_LOCAL_DEVICE_IDS $JAX_NUM_PROCESSES $JAX_COORDINATOR_ADDRESS"
    process = launch("3", "bash", "-c", show)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    lines = [line.split() for line in sorted(output.splitlines())]
    assert [line[:3] for line in lines] == [["0", "0", "3"], ["1", "1", "3"], ["2", "2", "3"]]
    (address,) = {line[3] for line in lines}
    assert address.startswith("localhost:")


def test_an_address_that_is_given_is_kept() -> None:
    show = "echo $JAX_COORDINATOR_ADDRESS"
    output, _ = launch("1", "bash", "-c", show, JAX_COORDINATOR_ADDRESS="here:5").communicate()
    assert output == "here:5\n"


@pytest.mark.parametrize("arguments", [(), ("2",), ("0", "true"), ("two", "true"), ("-1", "true")])
def test_a_wrong_call_is_one_line(arguments: tuple[str, ...]) -> None:
    process = launch(*arguments)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors.startswith("usage: launch/local.sh N COMMAND") and errors.count("\n") == 1


@pytest.mark.parametrize("failing", ["0", "1"])
def test_a_failure_ends_the_others_and_is_the_status(failing: str, tmp_path: Path) -> None:
    job = (
        f'trap "touch {tmp_path}/ended; exit 0" TERM; [ "$JAX_PROCESS_ID" = {failing} ] && '
        "{ sleep 0.5; exit 7; }; while true; do sleep 0.1; done"
    )
    process = launch("2", "bash", "-c", job)
    started = time.monotonic()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 7
    assert "status 7" in errors
    assert (tmp_path / "ended").exists() and time.monotonic() - started < 10


def test_a_process_that_does_not_hear_sigterm_is_killed_in_the_end() -> None:
    job = '[ "$JAX_PROCESS_ID" = 0 ] && exit 3; trap "" TERM; while true; do sleep 0.1; done'
    process = launch("2", "bash", "-c", job)
    process.communicate(timeout=20)
    assert process.returncode == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_which_end_in_their_own_time(
    number: signal.Signals, tmp_path: Path
) -> None:
    # As a training that saves: it goes on for a while after the signal, and ends with 0.
    saves = (
        f'trap "sleep 1; touch {tmp_path}/saved$JAX_PROCESS_ID; exit 0" TERM; '
        f"touch {tmp_path}/started$JAX_PROCESS_ID; while true; do sleep 0.1; done"
    )
    process = launch("2", "bash", "-c", saves)
    while len(list(tmp_path.glob("started*"))) < 2:
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert len(list(tmp_path.glob("saved*"))) == 2
