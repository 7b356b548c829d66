"""Studies whose images are vectors, and an encoder that reads them, so that answers are known."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict
from support.vector_images import image_of, vectors_of

from medclip_jax.data.studies import Study
from medclip_jax.errors import UserError


@dataclasses.dataclass
class VectorStudies:
    """A split in memory; an image is a PNG file of the bytes of a float32 vector."""

    studies: list[Study]
    label_names: tuple[str, ...] = ()

    def __len__(self):
        return len(self.studies)

    def read(self, indices):
        return [self.studies[index] for index in indices]


@dataclasses.dataclass
class VectorEncoder:
    """Embeds an image as `vector @ matrix`, and a text as its vector in `texts`."""

    texts: dict[str, np.ndarray]
    matrix: np.ndarray
    temperature: float = 0.5
    step: int = 7
    given: np.ndarray | None = None
    config: ConfigDict = dataclasses.field(
        default_factory=lambda: ConfigDict({"seed": 0, "text_encoder": {"max_length": 32}})
    )

    def image_features(self, images):
        return vectors_of(images) @ self.matrix

    def embed_images(self, images):
        return _unit(self.image_features(images))

    def embed_texts(self, texts):
        return _unit(np.stack([self.texts[text] for text in texts]) @ self.matrix)

    def match(self, images, texts, *, progress=False):
        """Above 0 where the cosine is above one half."""
        return (self.embed_images(images) @ self.embed_texts(texts).T - 0.5).astype(np.float32)

    def caption_scores(self, images, texts, *, progress=False):
        """Minus the distance of the vectors, which ranks otherwise than the cosine."""
        images = self.image_features(images)
        texts = np.stack([self.texts[text] for text in texts]) @ self.matrix
        return -np.linalg.norm(images[:, None] - texts[None], axis=-1).astype(np.float32)

    def as_given(self, seed=0):
        return None if self.given is None else dataclasses.replace(self, matrix=self.given, step=0)

    def randomly_initialized(self, seed=0):
        size = len(self.matrix)
        matrix = np.random.default_rng(seed).normal(size=(size, size)).astype(np.float32)
        return dataclasses.replace(self, matrix=matrix, step=0)


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_study(number, images, *, patient=None, report="", labels=()):
    return Study(
        study_id=f"s{number}",
        patient_id=patient or f"p{number}",
        images=[image_of(image) for image in images],
        views=["PA"] * len(images),
        report=report,
        labels=np.asarray(labels, np.float32),
    )


def opener(splits):
    """An `open_studies` over a dictionary of splits."""

    def open_studies(split):
        if split not in splits:
            raise UserError(f"no split {split!r}")
        return splits[split]

    return open_studies


@pytest.fixture
def study():
    return make_study


@pytest.fixture
def studies_of():
    return VectorStudies


@pytest.fixture
def encoder_of():
    return VectorEncoder


@pytest.fixture
def opened():
    return opener
