"""One run of a TFDS builder: locked, recorded, resumed if it was interrupted, and summed up."""

import contextlib
import fcntl
import io
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from medclip_jax.data import datasets
from medclip_jax.data.builders.row_builder import RowBuilder
from medclip_jax.errors import UserError

_FILE_FORMAT = "array_record"
_SOURCE = "source.json"
_REJECTED = "rejected.csv"
_CACHE = "unfinished.sqlite"
_MOST_WARNINGS = 10


def prepare(
    builder_class: type[tfds.core.GeneratorBasedBuilder],
    config: tfds.core.BuilderConfig | None,
    source: Mapping[str, Any],
    *,
    data_dir: str | Path | None,
    manual_dir: Path | None = None,
    max_rejected: float = 0.01,
    beam_runner: str | None = None,
    beam_options: Sequence[str] = (),
) -> str:
    """Prepares a set, unless it is prepared already; `build.build` says more.

    Args:
        builder_class: the set's TFDS builder.
        config: one of its configs; None for a builder without any.
        source: what the set is made from; a set of this name made from something else is refused.
        data_dir: where prepared sets lie; see `datasets.default_data_dir`.
        manual_dir: the folder with the downloaded files.
        max_rejected: the share of rows that may be left out.
        beam_runner: the Apache Beam runner to use, or None.
        beam_options: its options, "project=NAME".
    """
    if not 0 <= max_rejected <= 1:
        raise UserError(f"the share of rejected rows must be from 0 to 1, not {max_rejected}")
    root = datasets.default_data_dir(data_dir)
    name = f"{builder_class.name}/{config.name}" if config else builder_class.name
    folder = root / name
    if datasets.prepared_directory(folder) is not None:
        _check_same_source(folder, source)
        return f"{name} is already prepared from this source in {folder}"
    with _one_builder(folder):
        # Before the set, so that no set is without it, wherever the build is interrupted.
        (folder / _SOURCE).write_text(json.dumps(source, indent=2) + "\n")
        builder = builder_class(config=config, data_dir=root, file_format=_FILE_FORMAT)
        download = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
        if beam_runner or beam_options:
            _use_beam(download, beam_runner, beam_options)
        if isinstance(builder, RowBuilder):
            builder.max_rejected = max_rejected
            builder.on_beam = beam_runner is not None
            builder.cache = Path(folder / _CACHE) if _is_local(folder) else None
            _prepare_rows(builder, download, folder)
        else:
            _run(builder, download, folder)
    return "\n".join([_summary(name, builder), *_notes(builder, folder)])


def compare_counts(listed: Mapping[str, int], published: Mapping[str, int]) -> list[str]:
    """A line for each total in which the files that were found differ from the published set."""
    return [
        f"{name}: {found:,} found, {abs(found - total):,} {'more' if found > total else 'fewer'} "
        f"than the {total:,} published"
        for name, total in published.items()
        if (found := listed.get(name, 0)) != total
    ]


def _run(
    builder: tfds.core.DatasetBuilder, download: tfds.download.DownloadConfig, folder: epath.Path
) -> None:
    # TFDS tells that it begins and ends, which the summary says too.
    with _errors_in_a_line(folder), contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=download)


def _use_beam(
    download: tfds.download.DownloadConfig, runner: str | None, options: Sequence[str]
) -> None:
    if runner is None:
        raise UserError("--beam-options needs --beam-runner")
    try:
        from apache_beam import runners
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError("--beam-runner needs Apache Beam: pip install apache-beam") from error
    try:
        download.beam_runner = runners.create_runner(runner)
    except (ValueError, ImportError) as error:
        raise UserError(f"--beam-runner {runner}: {' '.join(str(error).split())}") from error
    download.beam_options = PipelineOptions([f"--{option}" for option in options])


def _prepare_rows(
    builder: RowBuilder, download: tfds.download.DownloadConfig, folder: epath.Path
) -> None:
    rejected = folder / _REJECTED
    try:
        _run(builder, download, folder)
    except UserError as error:
        if not builder.rejected:
            raise
        builder.write_rejected(rejected)
        raise UserError(f"{error}; see {rejected}") from error
    builder.write_rejected(rejected)
    for left in folder.glob(f"{_CACHE}*"):
        left.unlink()


@contextlib.contextmanager
def _one_builder(folder: epath.Path) -> Iterator[None]:
    """Makes the folder, keeps other builds out of it, and clears away what a killed one left."""
    with _errors_in_a_line(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not _is_local(folder):
            yield
            return
        with Path(folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{folder}: another build of this set is running") from error
            except OSError:
                pass  # some network disks have no locks
            for left in folder.glob(f"{tfds.core.constants.INCOMPLETE_PREFIX}*"):
                left.rmtree()
            yield


@contextlib.contextmanager
def _errors_in_a_line(folder: epath.Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        path = getattr(error, "filename", None) or folder
        raise UserError(f"{path}: {reason}; mend that and run the same command again") from error
    except RuntimeError as error:
        if "write() failed" not in str(error):  # which is how ArrayRecord says it
            raise
        reason = "no space is left" if "No space left" in str(error) else "cannot be written"
        raise UserError(f"{folder}: {reason}; mend that and run the same command again") from error


def _is_local(folder: epath.Path) -> bool:
    return "://" not in str(folder)


def _check_same_source(folder: epath.Path, source: Mapping[str, Any]) -> None:
    record = folder / _SOURCE
    recorded = json.loads(record.read_text()) if record.exists() else {}
    different = [key for key, value in source.items() if recorded.get(key) != value]
    if different:
        raise UserError(
            f"{folder} holds a set built from another source (different: {', '.join(different)}); "
            "choose another name or remove that folder"
        )


def _summary(name: str, builder: tfds.core.DatasetBuilder) -> str:
    counts = ", ".join(
        f"{split} {info.num_examples}" for split, info in builder.info.splits.items()
    )
    return f"{name} is prepared in {builder.data_dir} (studies: {counts})"


def _notes(builder: tfds.core.DatasetBuilder, folder: epath.Path) -> list[str]:
    if not isinstance(builder, RowBuilder):
        return []
    totals = builder.info.metadata
    listed = totals["listed"]
    notes = [
        f"the source lists {listed['patients']:,} patients, {listed['studies']:,} studies, "
        f"{listed['images']:,} images"
    ]
    notes += [*builder.notes, *builder.checks.lines()]
    different = compare_counts(listed, totals["published"])
    notes += [f"warning: {line}" for line in different[:_MOST_WARNINGS]]
    if different[_MOST_WARNINGS:]:
        notes.append(f"warning: {len(different)} totals differ so; see medclip-jax data info")
    if builder.left_out:
        notes.append(f"{_rows_were(builder.left_out)} left out on purpose: {folder / _REJECTED}")
    if builder.rejected:
        notes.append(f"{_rows_were(builder.rejected)} rejected: {folder / _REJECTED}")
    return notes


def _rows_were(rows: Sequence[Any]) -> str:
    return "1 row was" if len(rows) == 1 else f"{len(rows)} rows were"
