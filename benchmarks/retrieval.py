"""Instance retrieval both ways: its time and memory beside what it cannot do without.

Time is held against the bare matrix products, in blocks of 1,024 rows that are dropped; memory
against the embeddings of both sides, which are in float32.
"""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.loss import embedding_pairs
from benchmarks.timing import median_seconds
from medclip_jax.evaluate.instance_retrieval import InstanceRetrieval, Pairing
from medclip_jax.evaluate.pair_scoring import EmbeddingScores

MEBIBYTE = 2**20


def main(quick: bool = False) -> dict[str, float]:
    """Searches 20,000 pairs of width 512, or 1,000 of width 64."""
    num_studies, dim, rounds = (1_000, 64, 1) if quick else (20_000, 512, 3)
    scores = EmbeddingScores(*embedding_pairs(num_studies, dim))
    studies = np.arange(num_studies)
    pairing = Pairing(studies, studies, studies)

    def search() -> None:
        InstanceRetrieval.search(scores, pairing)

    def products() -> None:
        for start in range(0, num_studies, 1_024):
            rows = slice(start, start + 1_024)
            scores.of_images(rows)
            scores.of_texts(rows)

    seconds = median_seconds({"search": search, "products": products}, rounds)
    peak, embeddings = _peak_bytes(search), scores.images.nbytes + scores.texts.nbytes
    return {
        "num_studies": num_studies,
        "dim": dim,
        "time_over_products": seconds["search"] / seconds["products"],
        "memory_over_embeddings": peak / embeddings,
        "search_seconds": seconds["search"],
        "products_seconds": seconds["products"],
        "peak_mib": peak / MEBIBYTE,
        "embeddings_mib": embeddings / MEBIBYTE,
    }


def _peak_bytes(run: Callable[[], Any]) -> int:
    """What NumPy and Python hold at most during a run, beside what they held before."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
