"""Embeds the images and texts of a prepared split, a block of studies at a time.

What evaluation needs of a model are the protocols `ImageTextEncoder` and, where something of an
image or a report is hidden, `MaskedEncoder`; what `medclip_jax.load` returns satisfies both.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, compress
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from medclip_jax.data.reports import DEFAULT_SECTIONS, normalize_sentence, select_sections
from medclip_jax.data.studies import Study
from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.errors import UserError
from medclip_jax.evaluate.bootstrap import GIVEN, RANDOM
from medclip_jax.evaluate.request import Request
from medclip_jax.finite import require_finite

_STUDIES_AT_ONCE = 512


class ImageTextEncoder(Protocol):
    """What evaluation asks of an encoder; `medclip_jax.inference.Encoder` is one.

    A method whose part the model does not have raises a `UserError`.
    """

    @property
    def config(self) -> Any:
        """The config of the run."""
        ...

    @property
    def temperature(self) -> float:
        """What cosine similarities are divided by."""
        ...

    def embed_images(self, images: Sequence[Any]) -> Float[np.ndarray, "images dim"]:
        """Unit vectors of encoded, decoded or stored images."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
        """Unit vectors of texts."""
        ...

    def image_features(self, images: Sequence[Any]) -> Float[np.ndarray, "images features"]:
        """Pooled features before the projection."""
        ...

    def match(
        self, images: Sequence[Any], texts: Sequence[str], *, progress: bool = False
    ) -> Float[np.ndarray, "images texts"]:
        """The matching head's logit of every pair; above 0 it says that they belong together."""
        ...

    def caption_scores(
        self, images: Sequence[Any], texts: Sequence[str], *, progress: bool = False
    ) -> Float[np.ndarray, "images texts"]:
        """The mean log-likelihood of a token of each text, given each image."""
        ...

    def generate_reports(
        self,
        images: Sequence[Any],
        *,
        method: str = "greedy",
        num_beams: int = 4,
        length_penalty: float = 1.0,
        top_p: float = 0.9,
        seed: int = 0,
        progress: bool = False,
    ) -> list[str]:
        """A report of each image; `method` is "greedy", "beam" or "nucleus"."""
        ...

    def randomly_initialized(self, seed: int = 0) -> Self:
        """The same architecture and tokenizer with fresh weights."""
        ...

    def as_given(self, seed: int = 0) -> Self | None:
        """As training started: with the published weights that it was given, if it was."""
        ...


Encoding = TypeVar("Encoding", bound=ImageTextEncoder)


class MaskedEncoder(ImageTextEncoder, Protocol):
    """An encoder that regenerates what is hidden of an image, or fills gaps of a report."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns texts into token ids."""
        ...

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of the patches of a view."""
        ...

    def view(self, images: Sequence[Any]) -> Float[np.ndarray, "images size size"]:
        """The images as the model sees them, grey from 0 to 1: padded squares, resized."""
        ...

    def regenerate(
        self,
        images: Sequence[Any],
        patch_masks: Bool[np.ndarray, "images patches"],
        texts: Sequence[str] | None,
    ) -> Float[np.ndarray, "images size size"]:
        """The views with the patches where the mask is true as the model regenerates them.

        It sees the other patches and the text; None or an empty text is no text.
        """
        ...

    def fill_masks(
        self,
        token_ids: Int[np.ndarray, "texts length"],
        token_mask: Bool[np.ndarray, "texts length"],
        is_masked: Bool[np.ndarray, "texts length"],
        images: Sequence[Any] | None,
    ) -> Int[np.ndarray, "texts length"]:
        """The likeliest token where `is_masked` is true, the given one elsewhere."""
        ...


class Studies(Protocol):
    """A split of prepared studies, as `medclip_jax.data.datasets.open_split` gives it."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the columns of `Study.labels`."""
        ...

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> list[Study]:
        """The studies at these positions, in this order."""
        ...


@dataclasses.dataclass(frozen=True)
class StudyTable:
    """The chosen studies of a split without their images.

    Attributes:
        rows: Position of each study in the split.
        study_ids: Their names.
        patient_ids: Their patients.
        texts: The sections that were asked for of their reports.
        labels: 1 present, 0 absent, NaN unknown.
        image_study: For each image, in order, the index of its study in this table.
        image_number: For each image its place within its study.
    """

    rows: Int[np.ndarray, "studies"]
    study_ids: list[str]
    patient_ids: list[str]
    texts: list[str]
    labels: Float[np.ndarray, "studies labels"]
    image_study: Int[np.ndarray, "images"]
    image_number: Int[np.ndarray, "images"]

    @property
    def num_patients(self) -> int:
        """How many patients the studies come from."""
        return len(set(self.patient_ids))

    def subset(self, keep: Bool[np.ndarray, "studies"]) -> "StudyTable":
        """The studies where `keep` is true, with their images."""
        number = np.cumsum(keep) - 1
        images = keep[self.image_study]
        return StudyTable(
            rows=self.rows[keep],
            study_ids=list(compress(self.study_ids, keep)),
            patient_ids=list(compress(self.patient_ids, keep)),
            texts=list(compress(self.texts, keep)),
            labels=self.labels[keep],
            image_study=number[self.image_study[images]],
            image_number=self.image_number[images],
        )

    def with_labels(self, columns: Sequence[int]) -> "StudyTable":
        """The same studies with the labels of `columns` only."""
        return dataclasses.replace(self, labels=self.labels[:, list(columns)])

    def arrays(self) -> dict[str, np.ndarray]:
        """What the report page needs to find the studies and their images again."""
        return {
            "rows": self.rows,
            "study_ids": np.array(self.study_ids, np.str_),
            "patient_ids": np.array(self.patient_ids, np.str_),
            "image_study": self.image_study,
            "image_number": self.image_number,
        }


@dataclasses.dataclass(frozen=True)
class BothEncoders:
    """An encoder, its random initialisation, and what each made of the same images."""

    trained: ImageTextEncoder
    random: ImageTextEncoder
    trained_images: Float[np.ndarray, "images dim"]
    random_images: Float[np.ndarray, "images dim"]


def read_table(studies: Studies, sections: Sequence[str] = DEFAULT_SECTIONS) -> StudyTable:
    """Lists the studies that have an image, with these sections of their reports.

    Raises:
        UserError: there is none.
    """
    kept: list[tuple[int, str, str, str]] = []
    labels: list[np.ndarray] = []
    image_study: list[int] = []
    image_number: list[int] = []
    for row, study in enumerate(every_study(studies)):
        if not study.images:
            continue
        image_study += [len(kept)] * len(study.images)
        image_number += range(len(study.images))
        text = select_sections(study.report, sections)
        kept.append((row, study.study_id, study.patient_id, text))
        labels.append(study.labels)
    if not kept:
        raise UserError("no study of the split has an image; evaluate another --dataset or --split")
    rows, study_ids, patient_ids, texts = zip(*kept, strict=True)
    return StudyTable(
        rows=np.array(rows),
        study_ids=list(study_ids),
        patient_ids=list(patient_ids),
        texts=list(texts),
        labels=np.array(labels, np.float32),
        image_study=np.array(image_study),
        image_number=np.array(image_number),
    )


def baselines(encoder: Encoding, seed: int) -> dict[str, Encoding]:
    """What the image encoder is held against, by the prefixes of their figures."""
    given = encoder.as_given(seed)
    found = {RANDOM: encoder.randomly_initialized(seed)}
    return found if given is None else found | {GIVEN: given}


def with_batch_size(encoder: Encoding, request: Request) -> Encoding:
    """The encoder with the batches that the request asks for, if it asks for others."""
    if request.batch_size == Request.batch_size:
        return encoder
    return dataclasses.replace(encoder, batch_size=request.batch_size)  # type: ignore[type-var]


def embed_texts(encoder: ImageTextEncoder, texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
    """The embeddings of texts.

    Raises:
        UserError: they are not finite.
    """
    embeddings = encoder.embed_texts(texts)
    require_finite(embeddings, "embeddings of texts", texts)
    return embeddings


def embed_with_both(
    encoder: ImageTextEncoder, studies: Studies, table: StudyTable, seed: int
) -> BothEncoders:
    """Embeds all images of the table with the encoder and with its random initialisation."""
    random = encoder.randomly_initialized(seed)
    images = encode_images(encoder.embed_images, studies, table, "images")
    name = "images, random initialisation"
    random_images = encode_images(random.embed_images, studies, table, name)
    return BothEncoders(encoder, random, images, random_images)


def encode_images(
    encode_fn: Callable[[Sequence[bytes]], Float[np.ndarray, "block dim"]],
    studies: Studies,
    table: StudyTable,
    description: str,
) -> Float[np.ndarray, "images dim"]:
    """Applies `encode_fn` to all images of the table, holding one block of images at a time.

    Raises:
        UserError: what it makes of them is not finite; it names the first such study.
    """
    blocks = []
    for rows, images in image_blocks(studies, table, description):
        blocks.append(np.asarray(encode_fn(images), np.float32))
        names = [f"image of study {table.study_ids[study]}" for study in table.image_study[rows]]
        require_finite(blocks[-1], f"outputs of the encoder ({description})", names)
    return np.concatenate(blocks)


def image_blocks(
    studies: Studies, table: StudyTable, description: str
) -> Iterator[tuple[slice, list[bytes]]]:
    """The images of the table, a block of studies at a time, with a progress bar.

    Yields:
        Which images of the table they are, and the encoded images.
    """
    start = 0
    with tqdm(total=len(table.image_study), desc=description, unit="image", disable=None) as bar:
        for block in _blocks(studies, table.rows.tolist()):
            images = [image for study in block for image in study.images]
            yield slice(start, start + len(images)), images
            start += len(images)
            bar.update(len(images))


def every_study(studies: Studies) -> Iterator[Study]:
    """All studies of the split, in order."""
    return chain.from_iterable(_blocks(studies, range(len(studies))))


def _blocks(studies: Studies, rows: Sequence[int]) -> Iterator[list[Study]]:
    for start in range(0, len(rows), _STUDIES_AT_ONCE):
        yield studies.read(rows[start : start + _STUDIES_AT_ONCE])


def study_means(
    values: Float[np.ndarray, "images columns"],
    image_study: Int[np.ndarray, "images"],
    num_studies: int,
) -> Float[np.ndarray, "studies columns"]:
    """Averages the scores of a study's images."""
    sums = np.zeros((num_studies, values.shape[1]))
    np.add.at(sums, image_study, values)
    return sums / np.bincount(image_study, minlength=num_studies)[:, None]


def text_groups(texts: Sequence[str]) -> tuple[Int[np.ndarray, "texts"], Int[np.ndarray, "unique"]]:
    """Merges texts that are equal in words and numbers, whatever their case or punctuation.

    Returns:
        For each text the number of its group, and for each group the index of its first text.
    """
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(normalize_sentence(text), len(numbers)) for text in texts]
    _, first = np.unique(groups, return_index=True)
    return np.array(groups), first


def select_labels(label_names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Columns of the labels named by `--labels`, all if none is named.

    Raises:
        UserError: the set has no labels, or not one of the wanted ones.
    """
    if not label_names:
        raise UserError("the dataset has no labels; build it with --label-columns or --labels-from")
    for name in wanted:
        if name not in label_names:
            raise UserError(f"no label {name!r} in the dataset; it has {', '.join(label_names)}")
    return [i for i, name in enumerate(label_names) if not wanted or name in wanted]
