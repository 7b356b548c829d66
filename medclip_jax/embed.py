"""`medclip-jax embed`: the embeddings of many images or texts, written to one file."""

import csv
import glob
import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float

from medclip_jax.data.builders.rows import Rejection, commonest
from medclip_jax.data.table import read_lines, read_table
from medclip_jax.errors import UserError
from medclip_jax.inference import Encoder, load
from medclip_jax.output_files import check_file, write_whole

SUFFIXES = (".npz", ".parquet")
_TABLES = (".csv", ".csv.gz", ".jsonl")
_REJECTED = ".rejected.csv"  # after the name of the output, so that no other file is replaced

Embeddings = Float[np.ndarray, "num_examples size"]


def embed_to_file(
    checkpoint: Path,
    *,
    images: str | None,
    texts: Path | None,
    output: Path,
    max_rejected: float = 0.01,
) -> None:
    """Embeds what a glob, a table or a text file names and writes (`source`, `embedding`) rows.

    The rows are in the order of the input. Images that cannot be read are left out, and listed
    with the reason in `NAME.rejected.csv` beside an output `NAME.npz` or `NAME.parquet`.

    Raises:
        UserError: nothing is found, a text file cannot be read, the output cannot be written, or
            more than the share `max_rejected` of the images was left out; the embeddings of the
            others are written all the same.
    """
    if output.suffix not in SUFFIXES:
        raise UserError(f"--output {output} must end in {' or '.join(SUFFIXES)}")
    if not 0 <= max_rejected <= 1:
        raise UserError(f"the share of rejected images must be from 0 to 1, not {max_rejected}")
    sources = image_paths(images) if images is not None else read_lines(texts) if texts else []
    listed = output.with_name(output.stem + _REJECTED)
    check_file(output)
    check_file(listed)
    encoder = load(checkpoint)
    if images is None:
        _write(output, sources, encoder.embed_texts(sources, progress=True))
        return
    embeddings, rejected = _embed_images(encoder, sources)
    left_out = {rejection.row for rejection in rejected}
    kept = [source for row, source in enumerate(sources, start=1) if row not in left_out]
    if kept:
        _write(output, kept, embeddings)
    if rejected or listed.exists():  # perhaps of an earlier call
        _write_rejected(listed, rejected)
    if rejected:
        _report_rejected(rejected, len(sources), max_rejected, listed)


def image_paths(pattern: str) -> list[str]:
    """The files that a glob matches, or the `image_path` column of a table (relative to it).

    Rows of a table without an image are passed over.
    """
    if not pattern:
        raise UserError("--images is empty: give a glob (quoted), or a table")
    if not pattern.lower().endswith(_TABLES):
        paths = sorted(glob.glob(pattern, recursive=True))
        if not paths:
            raise UserError(f"--images {pattern}: no file matches (quote the pattern)")
        return paths
    table = Path(pattern)
    rows = read_table(table, ["image_path"]).rows
    paths = [str(table.parent / name) for row in rows if (name := row.cells.get("image_path"))]
    unreadable = [row for row in rows if row.problem and not row.cells.get("image_path")]
    problem = ""
    if unreadable:
        first = f"row {unreadable[0].number}: {unreadable[0].problem}"
        problem = f"{len(unreadable)} rows of {pattern} cannot be read, the first is {first}"
    if not paths:
        raise UserError(problem or f"--images {pattern}: no row has an image_path")
    if problem:
        print(problem)
    nameless = len(rows) - len(paths) - len(unreadable)
    if nameless:
        print(f"{nameless} rows of {pattern} name no image")
    return paths


def _embed_images(encoder: Encoder, paths: Sequence[str]) -> tuple[Embeddings, list[Rejection]]:
    """The embeddings of the images that can be read, and the others by their place in the list."""
    embeddings, reasons = encoder.embed_readable_images(paths, progress=True)
    rejected = [
        Rejection(index + 1, paths[index], reason.removeprefix(f"{paths[index]}: "))
        for index, reason in reasons.items()
    ]
    return embeddings, rejected


def _report_rejected(
    rejected: Sequence[Rejection], num_images: int, max_rejected: float, listed: Path
) -> None:
    if len(rejected) == 1:
        what = f"1 of {num_images} images was left out: {rejected[0].path}: {rejected[0].reason}"
    else:
        alike = commonest(rejected)
        what = (
            f"{len(rejected)} of {num_images} images were left out, {len(alike)} of them: "
            f"{alike[0].reason} ({alike[0].path})"
        )
    share = len(rejected) / num_images
    if share > max_rejected:
        raise UserError(
            f"{what}; that is {share:.1%}, more than the {max_rejected:.1%} allowed "
            f"(--max-rejected); see {listed}"
        )
    print(f"{what}; see {listed}")


def _write_rejected(path: Path, rejected: Sequence[Rejection]) -> None:
    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        csv.writer(text, lineterminator="\n").writerows([Rejection._fields, *rejected])
        text.detach()

    write_whole(path, write)


def _write(output: Path, sources: Sequence[str], embeddings: Embeddings) -> None:
    def write(file: BinaryIO) -> None:
        if output.suffix == ".npz":
            np.savez(file, source=np.array(sources), embedding=embeddings)
            return
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({"source": sources, "embedding": list(embeddings)})
        pyarrow.parquet.write_table(table, file)

    write_whole(output, write)
    print(f"{len(sources)} embeddings of size {embeddings.shape[1]} in {output}")
