"""A run of two processes, one of which is killed at random moments, ends as if nothing happened."""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support import commands

ROUNDS = 50
LINES_A_ROUND = 6  # at most, until the kill
STEPS_A_ROUND = 6  # about as many as a round takes, so that the run is not complete too early
SMALL = (
    f"--config.num_steps={STEPS_A_ROUND * (ROUNDS + 1)}",
    "--config.image_encoder.name=patches",
    "--config.image_encoder.hidden_size=16",
    "--config.image_encoder.patch_size=16",
    "--config.text_encoder.num_layers=1",
    "--config.checkpoint_every=5",
    "--config.evaluate_every=10",
    "--config.distributed.start_timeout=20",
    "--config.distributed.peer_timeout=10",
)


def disturb(
    processes: list[subprocess.Popen[str]], workdir: Path, chance: random.Random
) -> tuple[int, signal.Signals]:
    """Waits for a random moment, kills one of the processes, and waits for the end of both."""
    early = chance.random() < 0.2  # while it starts
    if early:
        time.sleep(chance.uniform(0, 5))
    else:
        before, more = commands.lines_written(workdir), chance.randint(1, LINES_A_ROUND)
        deadline = time.monotonic() + 120
        # Lines after the restored checkpoint are cut off first: any change is progress.
        while commands.lines_written(workdir) in range(before, before + more):
            if any(process.poll() is not None for process in processes):
                break
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
    victim = chance.randrange(2)
    number = chance.choice([signal.SIGKILL, signal.SIGTERM])
    processes[victim].send_signal(number)
    return victim, number


def run_chaos(config: Path, workdir: Path) -> None:
    chance = random.Random(ROUNDS)
    for turn in range(ROUNDS):
        processes = commands.start_two(config, workdir, *SMALL)
        victim, number = disturb(processes, workdir, chance)
        for index, process in enumerate(processes):
            _, errors = process.communicate(timeout=120)
            told = (turn, victim, number.name, index, process.returncode, errors)
            # 0: saved, or complete; 1, -SIGABRT: the other has gone, or has never come
            allowed = {0, 1, -signal.SIGABRT} | ({-number} if index == victim else set())
            assert process.returncode in allowed, told
            assert "Traceback" not in errors, told
            assert "damaged" not in errors, told
    for process in commands.start_two(config, workdir, *SMALL):
        commands.finish(process)


@pytest.mark.slow
def test_killed_and_started_again_50_times(toy_config: Path, tmp_path: Path) -> None:
    for process in commands.start_two(toy_config, tmp_path / "undisturbed", *SMALL):
        commands.finish(process)
    run_chaos(toy_config, tmp_path / "disturbed")
    expected = commands.metrics(tmp_path / "undisturbed")
    assert commands.metrics(tmp_path / "disturbed") == expected
