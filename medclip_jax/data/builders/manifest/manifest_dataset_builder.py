"""The TFDS builder of one's own data: a manifest of images and texts becomes a prepared set."""

import collections
import csv
import dataclasses
import functools
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import Float

from medclip_jax.data import images
from medclip_jax.data.builders.manifest.rows import (
    SPLITS,
    Manifest,
    Rejection,
    Row,
    read_manifest,
)
from medclip_jax.data.studies import Study, study_info
from medclip_jax.errors import UserError


@dataclasses.dataclass(eq=False, kw_only=True)
class ManifestConfig(tfds.core.BuilderConfig):
    """What a manifest set is built from.

    Attributes:
        max_rejected: the share of rows that may be left out before the build fails.
        image_size: the shorter side of stored images in pixels; smaller images are not enlarged.
    """

    manifest: Path
    image_root: Path
    label_columns: tuple[str, ...] = ()
    labels_from: str | None = None
    max_rejected: float = 0.01
    image_size: int = 256


class Builder(tfds.core.GeneratorBasedBuilder):
    """Rows of one study become one example, with all its images.

    The study's report is its rows' texts, each once, with an empty line between two that differ; an
    image named twice is stored once. A label is present if a row says so, absent if a row says
    absent and none present.

    Attributes:
        rejected: the rows left out so far; complete after `download_and_prepare`.
    """

    VERSION = tfds.core.Version("1.0.0")
    builder_config: ManifestConfig

    @functools.cached_property
    def manifest(self) -> Manifest:
        """The checked rows of the manifest."""
        config = self.builder_config
        return read_manifest(
            config.manifest, config.image_root, config.label_columns, config.labels_from
        )

    @functools.cached_property
    def rejected(self) -> list[Rejection]:
        """The rows left out so far."""
        return list(self.manifest.rejected)

    def check_rejected(self) -> None:
        """Raises `UserError` if more rows were left out than the config allows."""
        share = len(self.rejected) / self.manifest.num_rows
        if share > self.builder_config.max_rejected:
            raise UserError(
                f"{len(self.rejected)} of {self.manifest.num_rows} rows were rejected "
                f"({share:.1%}, more than the {self.builder_config.max_rejected:.1%} allowed)"
            )

    def write_rejected(self, path: epath.Path) -> None:
        """Writes the rows left out as a CSV: row, image_path, reason."""
        table = io.StringIO(newline="")
        csv.writer(table, lineterminator="\n").writerows(
            [Rejection._fields, *sorted(self.rejected)]
        )
        path.write_text(table.getvalue())

    def _info(self) -> tfds.core.DatasetInfo:
        return study_info(
            self,
            self.manifest.label_names,
            description=f"Images and reports listed in {self.builder_config.manifest.name}.",
            licence="that of the images and texts which the manifest lists",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        self.check_rejected()
        present = {rows[0].split for rows in self.manifest.studies.values()}
        return {split: self._generate_examples(split) for split in SPLITS if split in present}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        studies = [rows for rows in self.manifest.studies.values() if rows[0].split == split]
        num_written = 0
        for study, rejected in _in_threads(self._read_study, studies):
            self.rejected.extend(rejected)
            if study is not None:
                num_written += 1
                yield f"{study.patient_id}\t{study.study_id}", study.to_example()
        self.check_rejected()
        if num_written == 0:
            raise UserError(f"no row of the split {split} can be used")

    def _read_study(self, rows: Sequence[Row]) -> tuple[Study | None, list[Rejection]]:
        """The study of these rows, without those whose image is unreadable."""
        encoded: dict[str, bytes] = {}
        kept, rejected = [], []
        for row in rows:
            try:
                if row.image_path and row.image_path not in encoded:
                    encoded[row.image_path] = self._read_image(row.image_path)
                kept.append(row)
            except UserError as error:
                rejected.append(Rejection(row.number, row.image_path, str(error)))
        if not kept:
            return None, rejected
        views = {row.image_path: row.view for row in reversed(kept)}
        study = Study(
            study_id=kept[0].study_id,
            patient_id=kept[0].patient_id,
            images=list(encoded.values()),
            views=[views[path] for path in encoded],
            report="\n\n".join(dict.fromkeys(row.text for row in kept if row.text)),
            labels=_merge_labels([row.labels for row in kept]),
        )
        return study, rejected

    def _read_image(self, image_path: str) -> bytes:
        image = images.decode_gray(self.builder_config.image_root / image_path)
        return images.encode_jpeg(images.resize_short_side(image, self.builder_config.image_size))


def _merge_labels(labels: Sequence[tuple[float, ...]]) -> Float[np.ndarray, "num_labels"]:
    # fmax prefers a number to NaN, and present to absent.
    return np.fmax.reduce(np.array(labels, np.float32), axis=0)


def _in_threads(function: Any, items: Sequence[Any]) -> Iterator[Any]:
    """`map(function, items)` in threads, with few results waiting at any time."""
    num_threads = os.cpu_count() or 1
    waiting: collections.deque[Future[Any]] = collections.deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 4 * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
