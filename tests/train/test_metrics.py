"""`metrics.jsonl` holds what an undisturbed run would have written, whatever killed this one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medclip_jax.errors import UserError
from medclip_jax.train.metrics import MetricsWriter, Progress, read_metrics, truncate


def test_lines_are_written_at_once_and_nan_is_null(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, 0)
    writer.write(1, {"loss": 2.5, "rate": float("nan")})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2.5, "rate": None}]
    writer.close()


@pytest.mark.parametrize("tail", ["", '{"step": 40, "lo', '{"step": 30, "loss": 1.0}'])
def test_lines_after_the_checkpoint_and_a_cut_line_are_dropped(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (10, 20, 20, 30)]
    path.write_text("".join(lines) + tail)
    truncate(path, 20)
    assert path.read_text() == "".join(lines[:3])
    truncate(path, 0)
    assert path.read_text() == ""


def test_damaged_lines_go_and_the_good_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    damaged = b'{"step": 1}\n\n\x00\x00\n{"step"\n[]\n{"x": 1}\n\xff\n{"step": 2}\n{"step": 3}\n'
    path.write_bytes(damaged)
    truncate(path, 2)
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]


def test_a_folder_in_its_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot be written: Is a directory"):
        MetricsWriter(tmp_path, 3)


def test_truncating_nothing_is_fine(tmp_path: Path) -> None:
    truncate(tmp_path / "metrics.jsonl", 5)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_tensorboard_files_hold_the_scalars(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, 0)
    for step in (1, 2):
        writer.write(step, {"loss": step / 2})
    writer.close()
    from tensorboardX.proto.event_pb2 import Event

    (file,) = (tmp_path / "tensorboard").iterdir()
    data, found = file.read_bytes(), {}
    while data:  # TFRecord: length (8 bytes), its checksum (4), the event, its checksum (4)
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        found |= {(event.step, v.tag): v.simple_value for v in event.summary.value}
        data = data[16 + size :]
    assert found == {(1, "loss"): 0.5, (2, "loss"): 1.0}


def test_plain_lines_with_eta_where_there_is_no_terminal(capsys: pytest.CaptureFixture) -> None:
    progress = Progress(100, 0, enabled=True)
    progress.step()
    progress.log(10, {"loss": 1.25, "steps_per_second": 2.0, "images_per_second": 64.0})
    progress.close()
    assert capsys.readouterr().err == "step 10/100  loss 1.2500  64 images/s  ETA 0:45\n"


def test_other_processes_show_nothing(capsys: pytest.CaptureFixture) -> None:
    progress = Progress(100, 0, enabled=False)
    progress.message("hello")
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_bar_with_rate_on_a_terminal() -> None:
    import pty
    import termios

    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 100))
    code = (
        "from medclip_jax.train.metrics import Progress\n"
        "bar = Progress(4, 0, enabled=True)\n"
        "for step in range(1, 5):\n"
        "    bar.step(); bar.log(step, {'loss': 0.5})\n"
        "bar.close()\n"
    )
    subprocess.run([sys.executable, "-c", code], stderr=child, check=True)
    os.close(child)
    shown = os.read(parent, 100_000).decode()
    assert "4/4" in shown and "step/s" in shown and "loss=0.5000" in shown
