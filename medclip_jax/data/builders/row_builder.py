"""The TFDS builder that all sets of files share: rows in, studies out."""

import abc
import collections
import csv
import dataclasses
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow_datasets as tfds
import tqdm
from etils import epath

from medclip_jax.data.builders.id_spelling import spelling_warnings
from medclip_jax.data.builders.image_cache import ImageCache
from medclip_jax.data.builders.rows import (
    Rejection,
    Row,
    Source,
    checked_source,
    commonest,
    split_order,
)
from medclip_jax.data.builders.study_builder import StudyBuilder
from medclip_jax.data.builders.study_reader import StudyReader, store_image
from medclip_jax.data.studies import study_info
from medclip_jax.data.study_checks import StudyChecks
from medclip_jax.errors import UserError

if TYPE_CHECKING:
    import apache_beam as beam

Example = tuple[str, dict[str, Any]]
VIEWS = {"frontal": ("PA", "AP", "FRONTAL"), "lateral": ("LATERAL", "LL", "RL")}


def option(help: str, choices: Sequence[str] = ()) -> dict[str, Any]:
    """The metadata of a config's field that becomes a flag of `medclip-jax data build`."""
    return {"help": help, "choices": tuple(choices)}


@dataclasses.dataclass(eq=False, kw_only=True)
class RowConfig(tfds.core.BuilderConfig):
    """The options of every set of files; those of `option` are flags of the command line."""

    image_size: int = dataclasses.field(
        default=256,
        metadata=option("shorter side of stored images; smaller images are not enlarged"),
    )
    views: str = dataclasses.field(
        default="all", metadata=option("images to keep", ["all", "frontal", "lateral", "none"])
    )
    sections: str = dataclasses.field(
        default="", metadata=option("sections of reports to keep, joined by commas; default: all")
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            choices, value = field.metadata.get("choices"), getattr(self, field.name)
            if choices and value not in choices:
                raise UserError(f"{field.name} is {value!r}; there are: {', '.join(choices)}")
        if self.image_size < 1:
            raise UserError(f"image_size must be at least 1, not {self.image_size}")

    def options(self) -> dict[str, Any]:
        """The values of the flags, by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata}


class RowBuilder(StudyBuilder):
    """Reads a set's rows in threads, or on Apache Beam, and writes one example a study.

    A subclass says where the rows are (`read_source`) and what is known of the set.

    Attributes:
        LABEL_NAMES: what the columns of `Row.labels` stand for.
        DESCRIPTION: two or three sentences.
        LICENCE: its name, and what it asks for.
        CITATION: the paper or papers.
        HOMEPAGE: where the set is described and had.
        PUBLISHED: totals that its authors give, by the names that `count_listed` uses.
        DOWNLOADS: whether the builder can download the set by itself.
        max_rejected: the share of rows that may be left out before the build fails.
        on_beam: read on the runner given to `download_and_prepare` rather than in threads.
        cache: where images are kept until the build is finished; nowhere if None.
        rejected: the rows left out so far; complete after `download_and_prepare`.
        left_out: what was left out on purpose, which `max_rejected` does not count.
        notes: what the source's tables give to say, a line each.
        checks: what the studies that were read give to say; nothing if they are read on Beam.
    """

    VERSION = tfds.core.Version("1.0.0")
    LABEL_NAMES: tuple[str, ...] = ()
    DESCRIPTION = ""
    LICENCE = ""
    CITATION = ""
    HOMEPAGE = ""
    PUBLISHED: Mapping[str, int] = {}
    DOWNLOADS = False

    builder_config: RowConfig
    max_rejected: float = 0.01
    on_beam: bool = False
    cache: Path | None = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rejected: list[Rejection] = []
        self.left_out: Sequence[Rejection] = ()
        self.notes: list[str] = []
        self.checks = StudyChecks()
        self._num_rows = 0

    @abc.abstractmethod
    def read_source(self, dl_manager: tfds.download.DownloadManager) -> Source:
        """The rows of the set, from the tables in `dl_manager.manual_dir` or downloaded."""

    def checked(self, root: Path, rows: Iterable[Row | Rejection]) -> Source:
        """What `read_source` returns for a published set; see `checked_source`."""
        return checked_source(root, rows, with_images=self.builder_config.views != "none")

    @property
    def label_names(self) -> tuple[str, ...]:
        """What the columns of `Row.labels` stand for."""
        return self.LABEL_NAMES

    @property
    def published(self) -> Mapping[str, int]:
        """What the set's authors count, for these options."""
        return self.PUBLISHED

    def write_rejected(self, path: epath.Path) -> None:
        """Writes what is left out as a CSV: row, path, reason."""
        table = io.StringIO(newline="")
        listed = sorted(
            [*self.rejected, *self.left_out],
            key=lambda r: (not isinstance(r.row, int), r.row, r.path),
        )
        csv.writer(table, lineterminator="\n").writerows([Rejection._fields, *listed])
        path.write_text(table.getvalue())

    def _info(self) -> tfds.core.DatasetInfo:
        return study_info(
            self,
            self.label_names,
            description=" ".join(self.DESCRIPTION.split()),
            licence=self.LICENCE,
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            how_to_obtain=" ".join((self.MANUAL_DOWNLOAD_INSTRUCTIONS or "").split()),
            options=self.builder_config.options(),
            published=self._comparable(),
        )

    def _comparable(self) -> dict[str, int]:
        """The published totals that the files can have; without images, none are listed."""
        kept = self.builder_config.views != "none"
        return {
            name: total for name, total in self.published.items() if kept or "images" not in name
        }

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        source = self.read_source(dl_manager)
        self.rejected, self.left_out = list(source.rejected), source.left_out
        self._num_rows = source.num_rows
        self._check_rejected()
        rows = [row for study in source.studies for row in study]
        self.notes = [*source.notes, *spelling_warnings(rows)]
        for note in self.notes:
            tqdm.tqdm.write(note, file=sys.stderr)  # before the hours that reading may take
        self.info.metadata["listed"] = count_listed(source, self.label_names)
        self.info.metadata["notes"] = self.notes
        studies = _with_views(source.studies, self.builder_config.views)
        splits = sorted({rows[0].split for rows in studies}, key=split_order)
        if not splits:
            raise UserError(f"{source.root}: no study is left that can be used")
        tfds.disable_progress_bar()  # from here on; ours knows how many studies there are
        generate = self._examples_on_beam if self.on_beam else self._generate_examples
        return {
            split: generate(split, [rows for rows in studies if rows[0].split == split], source)
            for split in splits
        }

    def _reader(self, root: Path, cache: ImageCache | None) -> StudyReader:
        sections = tuple(filter(None, self.builder_config.sections.split(",")))
        store = cache or store_image
        return StudyReader(root, self.builder_config.image_size, sections, store)

    def _generate_examples(
        self, split: str, studies: Sequence[Sequence[Row]], source: Source
    ) -> Iterator[Example]:
        cache = ImageCache(self.cache, store_image) if self.cache else None
        num_written = 0
        try:
            results = _in_threads(self._reader(source.root, cache), studies)
            for study, rejected in _with_progress(results, split, len(studies)):
                self.rejected.extend(rejected)
                if study is not None:
                    num_written += 1
                    self.checks.add(split, study)
                    yield study.key, study.to_example()
        finally:
            if cache:
                cache.close()
        self._check_rejected()
        if num_written == 0:
            raise UserError(f"no row of the split {split} can be used")

    def _examples_on_beam(
        self, split: str, studies: Sequence[Sequence[Row]], source: Source
    ) -> "beam.PTransform":
        from medclip_jax.data.builders.beam_examples import BeamExamples

        folder = epath.Path(self.data_path) / "rejected"
        return BeamExamples(studies, self._reader(source.root, None), folder / split)

    def _process_pipeline_result(self, pipeline_result: Any) -> None:
        folder = epath.Path(self.data_path) / "rejected"
        for part in folder.glob("*"):
            lines = part.read_text().splitlines()
            self.rejected += [Rejection(*json.loads(line)) for line in lines]
        folder.rmtree(missing_ok=True)
        self._check_rejected()

    def _check_rejected(self) -> None:
        number = len(self.rejected)
        share = number / max(self._num_rows, 1)
        if share > self.max_rejected:
            alike = commonest(self.rejected)
            path = f": {alike[0].path}" if alike[0].path else ""
            raise UserError(
                f"{number} of {self._num_rows} rows {'was' if number == 1 else 'were'} rejected "
                f"({share:.1%}, more than the {self.max_rejected:.1%} allowed), most often "
                f"because: {alike[0].reason} ({len(alike)} of them; row {alike[0].row}{path})"
            )


def count_listed(source: Source, label_names: Sequence[str]) -> dict[str, int]:
    """What a source lists: "patients", "studies", "images", "train images", …, "images PA".

    A label's name stands for the number of studies that have it.
    """
    counts: collections.Counter[str] = collections.Counter()
    counts["patients"] = len({rows[0].patient_id for rows in source.studies})
    for rows in source.studies:
        split = rows[0].split
        views = {row.image_path: row.view for row in rows if row.image_path}
        counts.update({"studies": 1, f"{split} studies": 1})
        counts.update({"images": len(views), f"{split} images": len(views)})
        counts.update(f"images {view or 'of unknown view'}" for view in views.values())
        counts.update({label_names[i] for row in rows for i, v in enumerate(row.labels) if v == 1})
    return dict(counts)


def _with_views(studies: Sequence[Sequence[Row]], views: str) -> list[list[Row]]:
    wanted = VIEWS.get(views)
    kept = (
        [row for row in rows if wanted is None or not row.image_path or row.view in wanted]
        for rows in studies
    )
    return [rows for rows in kept if rows]


def _with_progress(results: Iterator[Any], split: str, total: int) -> Iterator[Any]:
    # A log file gets a line a minute, a terminal a bar.
    interval = 0.1 if sys.stderr.isatty() else 60.0
    return iter(tqdm.tqdm(results, split, total, unit=" studies", mininterval=interval))


def _in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """`map(function, items)` in threads, with few results waiting at any time."""
    num_threads = os.cpu_count() or 1
    waiting: collections.deque[Future[Any]] = collections.deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 4 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
