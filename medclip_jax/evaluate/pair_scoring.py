"""What ranks pairs of an image and a text: embeddings, the matching head or the caption decoder.

Embeddings are compared by their inner product, so that any part of the matrix of scores can be had
at once. The other two run the model on every pair, and keep the float32 matrix of its scores.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float

from medclip_jax.errors import UserError
from medclip_jax.evaluate.encode import (
    ImageTextEncoder,
    Studies,
    StudyTable,
    embed_texts,
    embed_with_both,
    encode_images,
)
from medclip_jax.finite import require_finite

# Of each score, what it is.
SCORES = {
    "embeddings": "cosine similarity of the embeddings",
    "matching": "logit of the matching head",
    "captioning": "mean log-likelihood of a token of the text, given the image",
}


class PairScores(Protocol):
    """The scores of all images with all texts, of which parts are asked for; higher is closer."""

    def of_images(self, rows: slice) -> Float[np.ndarray, "block texts"]:
        """Those of some images with every text."""
        ...

    def of_texts(self, rows: slice) -> Float[np.ndarray, "block images"]:
        """Those of some texts with every image."""
        ...


@dataclasses.dataclass(frozen=True)
class EmbeddingScores:
    """Inner products of embeddings."""

    images: Float[np.ndarray, "images dim"]
    texts: Float[np.ndarray, "texts dim"]

    def of_images(self, rows: slice) -> Float[np.ndarray, "block texts"]:
        """Those of some images with every text."""
        return self.images[rows] @ self.texts.T

    def of_texts(self, rows: slice) -> Float[np.ndarray, "block images"]:
        """Those of some texts with every image."""
        return self.texts[rows] @ self.images.T


@dataclasses.dataclass(frozen=True)
class MatrixScores:
    """Scores that are all there."""

    matrix: Float[np.ndarray, "images texts"]

    def of_images(self, rows: slice) -> Float[np.ndarray, "block texts"]:
        """Those of some images with every text."""
        return self.matrix[rows]

    def of_texts(self, rows: slice) -> Float[np.ndarray, "block images"]:
        """Those of some texts with every image."""
        return np.ascontiguousarray(self.matrix.T[rows])  # a search reads them row by row


class Scorer(Protocol):
    """Scores the images of a table, by one encoder, with whatever it is asked for."""

    def score_texts(self, texts: Sequence[str]) -> PairScores:
        """The scores of all images with the texts."""
        ...

    def score_images(self, paths: Sequence[str]) -> Float[np.ndarray, "queries images"]:
        """The scores of query images with all images."""
        ...

    def subset(self, table: StudyTable, images: Bool[np.ndarray, "images"]) -> "Scorer":
        """The same for the part of the table that has the images where `images` is true."""
        ...


@dataclasses.dataclass(frozen=True)
class EmbeddingScorer:
    """Embeds the images once and the queries when they come."""

    encoder: ImageTextEncoder
    images: Float[np.ndarray, "images dim"]

    def score_texts(self, texts: Sequence[str]) -> EmbeddingScores:
        """The scores of all images with the texts."""
        return EmbeddingScores(self.images, embed_texts(self.encoder, texts))

    def score_images(self, paths: Sequence[str]) -> Float[np.ndarray, "queries images"]:
        """The scores of query images with all images."""
        queries = self.encoder.embed_images(paths)
        require_finite(queries, "embeddings of query images", paths)
        return queries @ self.images.T

    def subset(self, table: StudyTable, images: Bool[np.ndarray, "images"]) -> "EmbeddingScorer":
        """The same for the part of the table that has the images where `images` is true."""
        return EmbeddingScorer(self.encoder, self.images[images])


@dataclasses.dataclass(frozen=True)
class ModelScorer:
    """Runs the model on every pair.

    Attributes:
        score: Its name in `SCORES`.
        score_fn: Scores a block of images with all texts.
        studies: Where the images are read.
        table: Which they are.
        note: What the progress bar says after the score's name.
    """

    score: str
    score_fn: Callable[..., Float[np.ndarray, "block texts"]]
    studies: Studies
    table: StudyTable
    note: str

    def score_texts(self, texts: Sequence[str]) -> MatrixScores:
        """The scores of all images with the texts."""
        name = f"{self.score} with {len(texts)} texts{self.note}"

        def score(images: Sequence[bytes]) -> Float[np.ndarray, "block texts"]:
            return self.score_fn(images, texts, progress=True)

        return MatrixScores(encode_images(score, self.studies, self.table, name))

    def score_images(self, paths: Sequence[str]) -> Float[np.ndarray, "queries images"]:
        """Raises a UserError: the model compares no two images."""
        raise UserError(
            f"--score {self.score} compares images with texts: leave the queries with images out, "
            "or use --score embeddings"
        )

    def subset(self, table: StudyTable, images: Bool[np.ndarray, "images"]) -> "ModelScorer":
        """The same for the part of the table that has the images where `images` is true."""
        return dataclasses.replace(self, table=table)


@dataclasses.dataclass(frozen=True)
class BothScorers:
    """The scorers of an encoder and of its random initialisation, for the images of a table."""

    table: StudyTable
    trained: Scorer
    random: Scorer

    def subset(self, keep: Bool[np.ndarray, "studies"]) -> "BothScorers":
        """The same for the studies where `keep` is true."""
        table, images = self.table.subset(keep), keep[self.table.image_study]
        trained, random = (part.subset(table, images) for part in (self.trained, self.random))
        return BothScorers(table, trained, random)


def scorers(
    score: str, encoder: ImageTextEncoder, studies: Studies, table: StudyTable, seed: int
) -> BothScorers:
    """The scorers of the encoder and of its random initialisation by the score of this name.

    Raises:
        UserError: the model has no embeddings and they are asked for.
    """
    if score == "embeddings":
        both = embed_with_both(encoder, studies, table, seed)
        trained = EmbeddingScorer(both.trained, both.trained_images)
        return BothScorers(table, trained, EmbeddingScorer(both.random, both.random_images))
    random = encoder.randomly_initialized(seed)

    def scorer(model: ImageTextEncoder, note: str) -> ModelScorer:
        score_fn = {"matching": model.match, "captioning": model.caption_scores}[score]
        return ModelScorer(score, score_fn, studies, table, note)

    return BothScorers(table, scorer(encoder, ""), scorer(random, ", random initialisation"))
