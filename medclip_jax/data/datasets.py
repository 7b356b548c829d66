"""Prepared sets on disk: find one, list its splits, read its studies at random. No TensorFlow."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import tensorflow_datasets as tfds
from etils import epath

from medclip_jax.data.studies import Study
from medclip_jax.errors import UserError

_READ_AHEAD = 64  # studies that are read at once when a split is gone through


class StudySplit(Sequence[Study]):
    """The studies of one split of a prepared set, read from disk when asked for.

    Attributes:
        name: the set, for example "synthetic_cxr/demo" or "manifest/mine".
        split: "train", "validation" or "test".
        label_names: what the columns of `Study.labels` stand for.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, name: str, split: str) -> None:
        self.name = name
        self.split = split
        self.label_names = tuple(builder.info.metadata["label_names"])
        self._records = builder.as_data_source(split).data_source
        self._files = [epath.Path(path) for path in builder.info.splits[split].filepaths]

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Study: ...
    @overload
    def __getitem__(self, index: slice) -> list[Study]: ...
    def __getitem__(self, index: int | slice) -> Study | list[Study]:
        if isinstance(index, slice):
            return self.read(range(len(self))[index])
        return self.read([range(len(self))[index]])[0]

    def __iter__(self) -> Iterator[Study]:
        for start in range(0, len(self), _READ_AHEAD):
            yield from self[start : start + _READ_AHEAD]

    def read(self, indices: Sequence[int]) -> list[Study]:
        """The studies at these positions, in this order, in one read.

        Raises:
            UserError: a file of the set has gone or is damaged.
        """
        if not indices:  # ArrayRecord refuses to read none
            return []
        try:
            records = self._records.__getitems__(list(indices))
            return [Study.from_record(record) for record in records]
        except (OSError, RuntimeError, IndexError) as error:  # ArrayRecord's; a cut record is empty
            raise UserError(_unreadable(self._files, error)) from error


def _unreadable(files: Sequence[epath.Path], error: Exception) -> str:
    """Names the file that cannot be read; ArrayRecord does not always tell which of several."""
    reason = str(error).partition("\n")[0]
    found = [file for file in files if not file.exists()]
    found = found or [file for file in files if str(file) in reason or len(files) == 1]
    where = str(found[0]) if found else f"a file in {files[0].parent}"
    return f"{where} cannot be read ({reason}): put it back and start again"


def open_split(name: str, split: str, data_dir: str | Path | None = None) -> StudySplit:
    """Opens a split of a prepared set.

    Args:
        name: `NAME` or `NAME/CONFIG`; a manifest set is `manifest/NAME`.
        split: the split's name.
        data_dir: where prepared sets lie; see `default_data_dir`.

    Raises:
        UserError: the set is not prepared (says how to build it), or has no such split (lists
            those it has).
    """
    builder = open_builder(name, data_dir)
    if split not in builder.info.splits:
        known = ", ".join(builder.info.splits)
        raise UserError(f"{name} has no split {split!r}; it has: {known}")
    return StudySplit(builder, name, split)


def split_names(name: str, data_dir: str | Path | None = None) -> tuple[str, ...]:
    """The splits of a prepared set; raises `UserError` if it is not prepared."""
    return tuple(open_builder(name, data_dir).info.splits)


def open_builder(name: str, data_dir: str | Path | None = None) -> tfds.core.DatasetBuilder:
    """The read-only TFDS builder of a prepared set; raises `UserError` as `open_split` does."""
    root = default_data_dir(data_dir)
    directory = prepared_directory(root / name)
    if directory is None:
        raise UserError(
            f"{name} is not prepared in {root}; build it with: {_build_command(name)} "
            f"--data-dir {root}"
        )
    builder = tfds.builder_from_directory(directory)
    if "label_names" not in (builder.info.metadata or {}):
        raise UserError(f"{directory} is not a set of studies that medclip-jax has built")
    return builder


def default_data_dir(data_dir: str | Path | None = None) -> epath.Path:
    """`data_dir` if given, else `$TFDS_DATA_DIR`, else TFDS's own default."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR
    return epath.Path(chosen).expanduser()


def prepared_directory(directory: epath.Path) -> epath.Path | None:
    """The newest version in `directory`, or of the default config that TFDS noted there."""
    versions = [
        path
        for path in (directory.iterdir() if directory.is_dir() else ())
        if tfds.core.Version.is_valid(path.name) and (path / "dataset_info.json").exists()
    ]
    if versions:
        return max(versions, key=lambda path: tfds.core.Version(path.name))
    note = directory / ".config" / "metadata.json"
    if not note.exists():
        return None
    default = json.loads(note.read_text()).get("default_config_name")
    return prepared_directory(directory / default) if default else None


def _build_command(name: str) -> str:
    if name.startswith("manifest"):
        own_name = name.partition("/")[2] or "NAME"
        return (
            f"medclip-jax data build manifest --name {own_name} --manifest FILE.csv "
            "--image-root DIR"
        )
    return f"medclip-jax data build {name}"
