"""Libraries that print what they meet in a damaged file, where one line of ours says it."""

import contextlib
import logging
import threading
import warnings
from collections.abc import Callable

import cv2


class Quiet:
    """A context in which something does not print, for any number of threads at once.

    The switches are the whole process's. So the first of several threads turns them, and the last
    one turns them back.
    """

    def __init__(self, switch: Callable[[contextlib.ExitStack], None]) -> None:
        """`switch` turns the switches, and has the stack turn them back."""
        self._switch = switch
        self._lock = threading.Lock()
        self._num_inside = 0
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._num_inside += 1
            if self._num_inside == 1:
                self._switch(self._undo)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._num_inside -= 1
            if self._num_inside == 0:
                self._undo.close()


def _switch_pydicom(undo: contextlib.ExitStack) -> None:
    undo.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", module=r"(pydicom|medclip_jax\.data\.dicom)")
    logger = logging.getLogger("pydicom")
    undo.callback(logger.setLevel, logger.level)
    logger.setLevel(logging.CRITICAL)


def _switch_opencv(undo: contextlib.ExitStack) -> None:
    log = cv2.utils.logging
    undo.callback(log.setLogLevel, log.setLogLevel(log.LOG_LEVEL_SILENT))


quiet_pydicom = Quiet(_switch_pydicom)
quiet_opencv = Quiet(_switch_opencv)
