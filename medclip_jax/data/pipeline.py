"""From prepared sets to batches: read, decode, tokenise and prefetch on the host.

A batch is a pure function of (seed, step), so the state of an iterator is the number of the next
step: it can be restored with other numbers of processes and threads.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grain
import ml_collections
import numpy as np

from medclip_jax.data import images
from medclip_jax.data.datasets import open_builder, open_split, split_names
from medclip_jax.data.rows import MODALITIES, MixedSet, RowOptions, RowSequence
from medclip_jax.data.texts import TEXTS, report_texts
from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.errors import UserError

Batch = dict[str, np.ndarray]

TRAIN, VALIDATION = "train", "validation"


class Content(NamedTuple):
    """What a study can show.

    Attributes:
        labels: names of those that are present, of the labels that objectives see.
    """

    has_image: bool
    texts: Sequence[str]
    labels: frozenset[str]


class BatchSource:
    """The batches of a process by step, each built when asked for.

    A batch holds, for those of its rows that this process reads: `image` uint8
    `[rows, size, size]`; `token_ids` int32 and `token_mask` bool `[rows, max_length]`; `group_ids`
    int32 `[rows, 2]`, the hashes of study and text; `has_image` and `has_text` bool `[rows]`,
    and `text_is_cut`, whether a text was longer than `max_length`;
    and, where a set has labels, `labels` float32 `[rows, num_labels]`, NaN unknown. A missing image
    is black, a missing text is that of an empty string.

    Rows from `batch_size` on, and those after the first `num_rows` of all batches, only fill a
    batch up: their `has_image` and `has_text` are false, whatever else they hold.
    """

    def __init__(
        self,
        sequence: RowSequence,
        *,
        batch_size: int,
        rows: Sequence[int],
        image_size: int,
        tokenizer: Tokenizer,
        max_length: int,
        num_rows: int | None = None,
    ) -> None:
        self._num_rows = sys.maxsize if num_rows is None else num_rows
        self._sequence = sequence
        self._batch_size = batch_size
        self._rows = rows
        self._image_size = image_size
        self._tokenizer = tokenizer
        self._max_length = max_length

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size

    def __getitem__(self, step: int) -> Batch:
        start = step * self._batch_size
        rows = self._sequence.read([start + row for row in self._rows])
        canvases = np.zeros((len(rows), self._image_size, self._image_size), np.uint8)
        for canvas, row in zip(canvases, rows, strict=True):
            if row.image is not None:
                images.fit_into(canvas, images.decode_gray(row.image))
        token_ids, token_mask, is_cut = self._tokenizer.encode_and_tell_cuts(
            [row.text for row in rows], self._max_length
        )
        batch = {
            "image": canvases,
            "token_ids": token_ids,
            "token_mask": token_mask,
            "group_ids": np.array([(row.study_hash, row.text_hash) for row in rows], np.int32),
            "has_image": np.array([row.image is not None for row in rows]),
            "has_text": np.array([bool(row.text) for row in rows]),
            "text_is_cut": is_cut,
        }
        in_batch = np.array(self._rows)
        counts = (in_batch < self._batch_size) & (start + in_batch < self._num_rows)
        batch["has_image"] &= counts
        batch["has_text"] &= counts
        labels = np.stack([row.labels for row in rows])
        return batch | {"labels": labels} if labels.size else batch


def make_iterator(
    data_config: ml_collections.ConfigDict,
    *,
    seed: int,
    batch_size: int,
    tokenizer: Tokenizer,
    max_length: int,
    views_per_study: int = 1,
    rows: Sequence[int] | None = None,
) -> grain.DatasetIterator[Batch]:
    """An endless iterator over training batches, prefetched in threads.

    Args:
        data_config: `config.data` of a run.
        seed: decides the order of studies and what each row draws.
        batch_size: rows of all processes together.
        tokenizer: encodes the texts.
        max_length: tokens a text.
        views_per_study: rows in succession that show one study.
        rows: those of a batch that this process reads; None is all.

    Raises:
        UserError: a set or split is missing, the batch is larger than the sets, or a setting is
            out of range.
    """
    batches, num_studies = _open_batches(
        data_config,
        TRAIN,
        seed=seed,
        batch_size=batch_size,
        tokenizer=tokenizer,
        max_length=max_length,
        views_per_study=views_per_study,
        rows=rows,
    )
    if batch_size > num_studies:
        raise UserError(
            f"batch_size {batch_size} is larger than the {num_studies} studies to train on"
        )
    return _prefetched(batches, data_config)


def validation_batches(
    data_config: ml_collections.ConfigDict,
    num_batches: int,
    *,
    seed: int,
    batch_size: int,
    tokenizer: Tokenizer,
    max_length: int,
    views_per_study: int = 1,
    rows: Sequence[int] | None = None,
    num_rows: int | None = None,
) -> Iterator[Batch]:
    """At most `num_batches` batches of the validation split, the same ones at every call.

    Studies come again only to fill up the last batch; rows of one study share their `group_ids`.

    Args:
        data_config: `config.data` of a run.
        num_batches: there are fewer where all studies were shown before.
        seed: decides the order of studies and what each row draws.
        batch_size: rows of all processes together by which a batch goes on.
        tokenizer: encodes the texts.
        max_length: tokens a text.
        views_per_study: rows in succession that show one study.
        rows: those of a batch that this process reads; None is all. Rows from `batch_size` on do
            not count: they have neither image nor text.
        num_rows: rows of all batches that count, likewise; None is all.
    """
    batches, num_studies = _open_batches(
        data_config,
        VALIDATION,
        seed=seed,
        batch_size=batch_size,
        tokenizer=tokenizer,
        max_length=max_length,
        views_per_study=views_per_study,
        rows=rows,
        num_rows=num_rows,
    )
    there = max(1, -(-num_studies * views_per_study // batch_size))
    return _prefetched(batches[: min(num_batches, there)], data_config)


def num_studies(data_config: ml_collections.ConfigDict, split: str) -> int:
    """The studies of a split, of all sets together; 0 where none has that split."""
    entries = _entries(data_config, split)
    splits = [open_builder(entry[0], data_config.data_dir).info.splits for entry in entries]
    return sum(of_set[split].num_examples for of_set in splits if split in of_set)


def contents(data_config: ml_collections.ConfigDict, split: str) -> Iterator[Content]:
    """What each study of a split can show; of a mixture, by turns one study of each set."""
    sets, options = _open_sets(data_config, split), _row_options(data_config)
    for turn in itertools.zip_longest(*(mixed.studies for mixed in sets)):
        for mixed, study in zip(sets, turn, strict=True):
            if study is None:
                continue
            texts = report_texts(
                study.report, options.sections, options.text, options.remove_priors
            )
            present = itertools.compress(mixed.studies.label_names, study.labels == 1)
            yield Content(
                has_image=bool(study.images) and mixed.modality != "text",
                texts=texts if mixed.modality != "image" else (),
                labels=frozenset(name for name in present if name in (options.labels or (name,))),
            )


def corpus(data_config: ml_collections.ConfigDict) -> Iterator[str]:
    """The selected sections of every report to train on, for training a tokenizer.

    Raises:
        UserError: no study has any text.
    """
    sets, options = _open_sets(data_config, TRAIN), _row_options(data_config)
    has_text = False
    for study in (study for mixed in sets for study in mixed.studies if mixed.modality != "image"):
        texts = report_texts(study.report, options.sections, "report", options.remove_priors)
        has_text = has_text or bool(texts)
        yield from texts
    if not has_text:
        names = ", ".join(mixed.name for mixed in sets)
        raise UserError(f"no training study of {names} has any text")


def label_names(data_config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The names of the columns of a batch's `labels`.

    Raises:
        UserError: no set has a label that `config.data.labels` names.
    """
    known = [name for mixed in _open_sets(data_config, TRAIN) for name in mixed.studies.label_names]
    for name in data_config.labels:
        if name not in known:
            there = ", ".join(dict.fromkeys(known)) or "none"
            raise UserError(f"config.data.labels: no set has {name!r}; there are: {there}")
    return tuple(data_config.labels) or tuple(dict.fromkeys(known))


def _open_batches(
    data_config: ml_collections.ConfigDict,
    split: str,
    *,
    seed: int,
    batch_size: int,
    tokenizer: Tokenizer,
    max_length: int,
    views_per_study: int,
    rows: Sequence[int] | None,
    num_rows: int | None = None,
) -> tuple[grain.MapDataset[Batch], int]:
    """The batches of a split by step, and the number of its studies."""
    sets, options = _open_sets(data_config, split), _row_options(data_config, views_per_study)
    if batch_size % views_per_study:
        raise UserError(f"batch_size {batch_size} is not a multiple of {views_per_study} views")
    source = BatchSource(
        RowSequence(sets, seed=seed, options=options),
        batch_size=batch_size,
        rows=range(batch_size) if rows is None else [int(row) for row in rows],
        image_size=data_config.image_size,
        tokenizer=tokenizer,
        max_length=max_length,
        num_rows=num_rows,
    )
    return grain.MapDataset.source(source), sum(len(mixed.studies) for mixed in sets)


def _row_options(data_config: ml_collections.ConfigDict, views_per_study: int = 1) -> RowOptions:
    if data_config.text not in TEXTS:
        raise UserError(
            f"config.data.text must be one of {', '.join(TEXTS)}, not {data_config.text!r}"
        )
    return RowOptions(
        sections=tuple(data_config.sections),
        text=data_config.text,
        views_per_study=views_per_study,
        remove_priors=data_config.remove_priors,
        labels=tuple(data_config.labels),
    )


def _open_sets(data_config: ml_collections.ConfigDict, split: str) -> list[MixedSet]:
    """The sets of a split; of a mixture, the sets that have no validation split are left out."""
    return [_open_set(entry, split, data_config.data_dir) for entry in _entries(data_config, split)]


def _entries(data_config: ml_collections.ConfigDict, split: str) -> list[Sequence[Any]]:
    """What the config says of each of the sets of a split."""
    entries = list(data_config.mixture) or [(data_config.dataset, 1.0)]
    if split == VALIDATION and len(entries) > 1:
        having = [e for e in entries if split in split_names(e[0], data_config.data_dir)]
        entries = having or entries
    return entries


def _open_set(entry: Sequence[Any], split: str, data_dir: str) -> MixedSet:
    """Opens `(name, weight)` or `(name, weight, modality)`."""
    if len(entry) not in (2, 3):
        raise UserError(f"config.data.mixture: give (name, weight[, modality]), not {entry!r}")
    name, weight, modality = (*entry, "both")[:3]
    if not weight > 0:
        raise UserError(f"config.data.mixture: the weight of {name} must be above 0: {weight}")
    if modality not in MODALITIES:
        raise UserError(
            f"config.data.mixture: the modality of {name} is {modality!r}; "
            f"give one of {', '.join(MODALITIES)}"
        )
    return MixedSet(open_split(name, split, data_dir), weight, modality)


def _prefetched(
    batches: grain.MapDataset[Batch], data_config: ml_collections.ConfigDict
) -> grain.DatasetIterator[Batch]:
    threads = data_config.num_threads
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(threads, data_config.prefetch)
    )
    return iter(batches.to_iter_dataset(options))
