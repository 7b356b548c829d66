"""The images of a build that is under way, kept so that an interrupted build can go on."""

import sqlite3
import threading
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from medclip_jax.data.builders.study_reader import StoredImage

_SCHEMA = """
CREATE TABLE IF NOT EXISTS images (
    path TEXT, bytes INTEGER, changed INTEGER, image_size INTEGER,
    jpeg BLOB, height INTEGER, width INTEGER,
    PRIMARY KEY (path, bytes, changed, image_size)
) WITHOUT ROWID
"""


class ImageCache:
    """Gives an image as `store_image` does, from a file on disk if that has it already.

    An image counts as the same if its path, length and time of change are. Each image is on disk as
    soon as it was given, so that a build that is killed loses only those in hand.
    """

    def __init__(self, path: Path, store: Callable[[Path, int], StoredImage]) -> None:
        self._path = path
        self._store = store
        self._lock = threading.Lock()  # the connection is shared by all threads
        try:
            self._connection = self._connect()
        except sqlite3.DatabaseError:  # damaged: begin anew
            for part in path.parent.glob(f"{path.name}*"):
                part.unlink()
            self._connection = self._connect()

    def __call__(self, path: Path, image_size: int) -> StoredImage:
        """The image as stored earlier, or as `store` gives it now."""
        try:
            status = path.stat()
        except OSError:
            return self._store(path, image_size)  # which says what is wrong
        key = (str(path), status.st_size, status.st_mtime_ns, image_size)
        with self._lock:
            known = self._connection.execute(
                "SELECT jpeg, height, width FROM images"
                " WHERE path = ? AND bytes = ? AND changed = ? AND image_size = ?",
                key,
            ).fetchone()
        if known:
            return StoredImage(*known)
        image = self._store(path, image_size)
        with self._lock:
            self._connection.execute(
                "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?)", (*key, *image)
            )
        return image

    def close(self) -> None:
        """Closes the file and leaves it for the next build."""
        self._connection.close()

    def _connect(self) -> sqlite3.Connection:
        # Without locks and shared memory, which network disks often lack; one build at a time has
        # the folder. With autocommit: what was written outlives the process, if not a power cut.
        connection = sqlite3.connect(
            f"file:{urllib.parse.quote(str(self._path))}?nolock=1",
            uri=True,
            check_same_thread=False,
            isolation_level=None,
        )
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(_SCHEMA)
        return connection
