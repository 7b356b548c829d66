"""Eight virtual CPU devices for every test, and a small prepared dataset to train on."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

from support.commands import QUICK_FLAGS

# A shell that starts the tests in the background lets them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [QUICK_FLAGS, "--xla_force_host_platform_device_count=8", os.environ.get("XLA_FLAGS", "")]
)
# Runs in processes of their own compile the same programs again and again.
CACHE = Path(__file__).parents[1] / ".cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))

import csv  # noqa: E402
import textwrap  # noqa: E402

import cv2  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

SIZES = ("small", "moderate", "large")
SIDES = ("left", "right")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Compiled programs of a file fill memory, and are of no use to the next file."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with `manifest/toy`: a bright square whose side and size the text tells."""
    from medclip_jax.data.build import build_manifest

    root = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    with (root / "toy.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image_path", "text", "patient_id", "study_id", "split", "labels"])
        for index in range(96):
            side, size = int(rng.integers(2)), int(rng.integers(3))
            image = rng.integers(0, 60, (48, 40), np.uint8)
            column = 4 + 20 * side
            image[20 : 24 + 5 * size, column : column + 12] += 150
            cv2.imwrite(str(root / f"{index}.png"), image)
            text = f"There is a {SIZES[size]} {SIDES[side]} effusion. Heart size is normal."
            split = "train" if index < 64 else "validation" if index < 80 else "test"
            table.writerow(
                [f"{index}.png", text, f"p{index // 2}", f"s{index}", split, SIDES[side]]
            )
    data_dir = root / "data"
    build_manifest("toy", root / "toy.csv", root, labels_from="labels", data_dir=data_dir)
    return data_dir


@pytest.fixture(scope="session")
def toy_config(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file that trains a very small ConVIRT on the toy set."""
    path = tmp_path_factory.mktemp("config") / "toy.py"
    path.write_text(
        textwrap.dedent(f"""
        from medclip_jax.config import base_config

        def get_config():
            config = base_config()
            config.num_steps = 20
            config.batch_size = 16
            config.log_every = 1
            config.evaluate_every = 5
            config.checkpoint_every = 3
            config.image_encoder.name = "resnet18"
            config.image_encoder.width = 4
            config.text_encoder.update(
                hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, max_length=16
            )
            config.projection.size = 8
            config.optimizer.learning_rate = 1e-3
            config.schedule.name = "constant"
            config.data.dataset = "manifest/toy"
            config.data.data_dir = "{toy_data}"
            config.data.image_size = 32
            config.data.validation_examples = 16
            config.tokenizer.vocab_size = 100
            config.augmentation.crop_size = 32
            return config
        """)
    )
    return path
