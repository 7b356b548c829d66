"""Real chest X-rays and reports, where they are: `../shared/data` or `$MEDCLIP_JAX_REAL_DATA`."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("MEDCLIP_JAX_REAL_DATA", ROOT.parent / "shared" / "data"))


def real(name: str) -> Path:
    """A file or folder of the real data; the test is skipped where it is not there."""
    if not (REAL / name).exists():
        pytest.skip(f"no real data at {REAL / name}")
    return REAL / name
