"""`medclip-jax embed`: the embeddings of many images or texts, written to one file."""

import csv
import glob
from pathlib import Path

import numpy as np

from medclip_jax.errors import UserError
from medclip_jax.inference import load

SUFFIXES = (".npz", ".parquet")


def embed_to_file(
    checkpoint: Path, *, images: str | None, texts: Path | None, output: Path
) -> None:
    """Embeds what a glob, a CSV or a text file names and writes (`source`, `embedding`) rows.

    Raises:
        UserError: nothing is found, a file cannot be read, or the output's ending is unknown.
    """
    if output.suffix not in SUFFIXES:
        raise UserError(f"--output {output} must end in {' or '.join(SUFFIXES)}")
    sources = image_paths(images) if images else _lines(texts) if texts else []
    encoder = load(checkpoint)
    embed = encoder.embed_images if images else encoder.embed_texts
    embeddings = embed(sources, progress=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".npz":
        np.savez(output, source=np.array(sources), embedding=embeddings)
    else:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({"source": sources, "embedding": list(embeddings)})
        pyarrow.parquet.write_table(table, output)
    print(f"{len(sources)} embeddings of size {embeddings.shape[1]} in {output}")


def image_paths(pattern: str) -> list[str]:
    """The files that a glob matches, or the `image_path` column of a CSV (relative to the CSV)."""
    if not pattern.endswith(".csv"):
        paths = sorted(glob.glob(pattern, recursive=True))
        if not paths:
            raise UserError(f"--images {pattern}: no file matches (quote the pattern)")
        return paths
    try:
        with open(pattern, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"--images {pattern}: {error.strerror}") from None
    if not rows or "image_path" not in rows[0]:
        raise UserError(f"--images {pattern}: it needs a column image_path and at least one row")
    return [str(Path(pattern).parent / row["image_path"]) for row in rows]


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--texts {path} cannot be read as UTF-8 text: {error}") from None
    return [line for line in lines if line]
