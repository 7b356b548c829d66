"""Starts the tests that need TensorFlow, in a process without PyTorch."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def test_builders_and_tf_data() -> None:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed")
    env = os.environ | {"MEDCLIP_JAX_TESTS_WITH_TENSORFLOW": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "tensorflow", str(FOLDER)]
    done = subprocess.run(
        command, cwd=FOLDER.parents[1], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    # Five tests of TFDS for each of the nine builders, and two of tf.data.
    assert passed and int(passed[1]) >= 47, done.stdout
