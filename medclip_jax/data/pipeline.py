"""From prepared sets to batches: read, decode, tokenise and prefetch on the host.

A batch is a pure function of (seed, step), so the state of an iterator is the number of the next
step: it can be restored with other numbers of processes and threads.
"""

import sys
from collections.abc import Iterator, Sequence

import grain
import ml_collections
import numpy as np

from medclip_jax.data import images, reports
from medclip_jax.data.datasets import StudySplit, open_split
from medclip_jax.data.rows import RowSequence, check_weights
from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.errors import UserError

Batch = dict[str, np.ndarray]

TRAIN, VALIDATION = "train", "validation"


class BatchSource:
    """The batches of a process by step, each built when asked for.

    A batch holds, for those of its rows that this process reads: `image` uint8
    `[rows, size, size]`; `token_ids` int32 and `token_mask` bool `[rows, max_length]`; `group_ids`
    int32 `[rows, 2]`, the hashes of study and text; `has_image` and `has_text` bool `[rows]`. A
    missing image is black, a missing text is that of an empty string.
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
    ) -> None:
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
        token_ids, token_mask = self._tokenizer.encode_batch(
            [row.text for row in rows], self._max_length
        )
        return {
            "image": canvases,
            "token_ids": token_ids,
            "token_mask": token_mask,
            "group_ids": np.array([(row.study_hash, row.text_hash) for row in rows], np.int32),
            "has_image": np.array([row.image is not None for row in rows]),
            "has_text": np.array([bool(row.text) for row in rows]),
        }


def make_iterator(
    data_config: ml_collections.ConfigDict,
    *,
    seed: int,
    batch_size: int,
    tokenizer: Tokenizer,
    max_length: int,
    rows: Sequence[int] | None = None,
) -> grain.DatasetIterator[Batch]:
    """An endless iterator over training batches, prefetched in threads.

    Args:
        data_config: `config.data` of a run.
        seed: decides the order of studies and what each row draws.
        batch_size: rows of all processes together.
        tokenizer: encodes the texts.
        max_length: tokens a text.
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
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """At most `num_batches` batches of the validation split, the same ones at every call.

    No study comes twice, unless the split has fewer studies than one batch has rows; then there is
    one batch, in which rows of one study share their `group_ids`.
    """
    batches, num_studies = _open_batches(
        data_config,
        VALIDATION,
        seed=seed,
        batch_size=batch_size,
        tokenizer=tokenizer,
        max_length=max_length,
        rows=rows,
    )
    return _prefetched(batches[: min(num_batches, max(1, num_studies // batch_size))], data_config)


def corpus(data_config: ml_collections.ConfigDict) -> Iterator[str]:
    """The selected sections of every report to train on, for training a tokenizer.

    Raises:
        UserError: no study has any text.
    """
    sets, _ = _open_sets(data_config, TRAIN)
    has_text = False
    for study in (study for studies in sets for study in studies):
        if text := reports.select_sections(study.report, data_config.sections):
            has_text = True
            yield text
    if not has_text:
        names = ", ".join(studies.name for studies in sets)
        raise UserError(f"no training study of {names} has any text")


def _open_batches(
    data_config: ml_collections.ConfigDict,
    split: str,
    *,
    seed: int,
    batch_size: int,
    tokenizer: Tokenizer,
    max_length: int,
    rows: Sequence[int] | None,
) -> tuple[grain.MapDataset[Batch], int]:
    """The batches of a split by step, and the number of its studies."""
    if data_config.text not in ("sentence", "report"):
        raise UserError(f"config.data.text must be sentence or report, not {data_config.text!r}")
    sets, weights = _open_sets(data_config, split)
    sequence = RowSequence(
        sets,
        weights,
        seed=seed,
        sections=data_config.sections,
        whole_reports=data_config.text == "report",
    )
    source = BatchSource(
        sequence,
        batch_size=batch_size,
        rows=range(batch_size) if rows is None else [int(row) for row in rows],
        image_size=data_config.image_size,
        tokenizer=tokenizer,
        max_length=max_length,
    )
    return grain.MapDataset.source(source), sum(len(studies) for studies in sets)


def _open_sets(
    data_config: ml_collections.ConfigDict, split: str
) -> tuple[list[StudySplit], list[float]]:
    weights = dict(data_config.mixture) or {data_config.dataset: 1.0}
    check_weights(weights)
    sets = [open_split(name, split, data_config.data_dir) for name in weights]
    return sets, list(weights.values())


def _prefetched(
    batches: grain.MapDataset[Batch], data_config: ml_collections.ConfigDict
) -> grain.DatasetIterator[Batch]:
    threads = data_config.num_threads
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(threads, data_config.prefetch)
    )
    return iter(batches.to_iter_dataset(options))
