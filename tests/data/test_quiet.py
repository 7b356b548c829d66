"""Libraries are quiet inside, and as they were outside."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import pytest

from medclip_jax.data.quiet import quiet_opencv


@pytest.mark.parametrize("level", [cv2.utils.logging.LOG_LEVEL_ERROR, 4])
def test_many_threads_leave_the_log_level_as_it_was(level: int) -> None:
    before = cv2.utils.logging.setLogLevel(level)

    def inside(_: int) -> int:
        with quiet_opencv:
            return cv2.utils.logging.getLogLevel()

    try:
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(inside, range(200))) == {cv2.utils.logging.LOG_LEVEL_SILENT}
        assert cv2.utils.logging.getLogLevel() == level
    finally:
        cv2.utils.logging.setLogLevel(before)


def test_an_error_turns_the_switches_back() -> None:
    before = cv2.utils.logging.getLogLevel()
    with pytest.raises(ZeroDivisionError), quiet_opencv:
        1 / 0  # noqa: B018
    assert cv2.utils.logging.getLogLevel() == before
