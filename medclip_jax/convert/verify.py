"""Whether PyTorch computes from an export what we compute: every output, pixels and tokens."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from medclip_jax.convert.outputs import Inputs, Outputs, our_outputs
from medclip_jax.data.datasets import open_split
from medclip_jax.data.reports import DEFAULT_SECTIONS, select_sections
from medclip_jax.data.studies import Study
from medclip_jax.errors import UserError
from medclip_jax.inference.encoder import Encoder

TOLERANCE = 1e-4  # of a float32 output: absolute, and relative to the value
GREY_TOLERANCE = 1.0  # of a pixel, in levels of 8 bits
_RANDOM_ROWS, _REAL_ROWS = 4, 8


class Difference(NamedTuple):
    """How far PyTorch's values are from ours.

    Attributes:
        output: what was compared.
        inputs: "random" or "real".
        absolute: the largest.
        relative: the largest, as a share of the largest value.
        is_close: whether every value is within the tolerance.
    """

    output: str
    inputs: str
    absolute: float
    relative: float
    is_close: bool


class Examples(NamedTuple):
    """Images and texts of a set; as many of each."""

    images: Sequence[bytes | np.ndarray]
    texts: Sequence[str]


def verify(
    encoder: Encoder, directory: Path, run_outputs: Callable[[Path, Inputs], Outputs]
) -> list[Difference]:
    """Compares the outputs of an export with ours, on random and, where the set is here, real data.

    Args:
        encoder: the model that was exported.
        directory: the export.
        run_outputs: runs PyTorch on it.

    Raises:
        UserError: a library is missing, or the two agree in no name of an output.
    """
    differences = []
    for kind, examples in _examples(encoder).items():
        inputs = _inputs(encoder, examples)
        ours, theirs = our_outputs(encoder, inputs), run_outputs(directory, inputs)
        # One output may come from several classes: "text_tokens (BertModel)".
        differences += [
            _compare(name, kind, array, ours[name.partition(" (")[0]])
            for name, array in theirs.items()
        ]
        differences += _compare_preprocessing(encoder, directory, examples, kind)
        differences += _compare_tokens(directory, examples, inputs, kind)
    return differences


def format_differences(differences: Sequence[Difference]) -> str:
    """A table of what was compared, a line an output."""
    header = ["output", "inputs", "max absolute", "max relative", ""]
    rows = [
        [d.output, d.inputs, f"{d.absolute:.1e}", f"{d.relative:.1e}", "" if d.is_close else "FAR"]
        for d in differences
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join(lines)


def _examples(encoder: Encoder) -> dict[str, Examples]:
    """Random images and texts, and those of the run's own set if it is here."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(40, 400, (_RANDOM_ROWS, 2))
    images = [generator.integers(0, 256, size, np.uint8) for size in sizes]
    vocabulary = np.array([token for token in encoder.tokenizer.tokens if token.isalnum()])
    lengths = (0, 3, 20, 4 * encoder.config.text_encoder.max_length)
    texts = [" ".join(generator.choice(vocabulary, length)) for length in lengths]
    examples = {"random": Examples(images, texts)}
    studies = _studies(encoder)
    if studies:
        sections = encoder.config.data.sections or DEFAULT_SECTIONS
        texts = [select_sections(study.report, sections) for study in studies]
        examples["real"] = Examples([study.images[0] for study in studies], texts)
    else:
        print("the run's set is not prepared here: random images and texts only")
    return examples


def _studies(encoder: Encoder) -> list[Study]:
    data = encoder.config.data
    name = data.mixture[0][0] if data.mixture else data.dataset
    for split in ("validation", "test", "train"):
        try:
            studies = open_split(name, split, data.data_dir or None)
        except UserError:
            continue
        return [study for study in studies[: 4 * _REAL_ROWS] if study.images][:_REAL_ROWS]
    return []


def _inputs(encoder: Encoder, examples: Examples) -> Inputs:
    ids, mask = encoder.tokenize(examples.texts)
    num_patches = 0
    if encoder.model.pixel_head is not None:
        num_patches = int(np.prod(encoder.patch_grid))
    masked = np.random.default_rng(0).random((len(ids), num_patches)) < 0.5
    image = np.array(encoder.prepare(encoder.read_images(examples.images)))  # PyTorch may write
    return Inputs(image, ids, mask, masked)


def _compare(
    name: str,
    inputs: str,
    theirs: Float[np.ndarray, "*shape"],
    ours: Float[np.ndarray, "*shape"],
) -> Difference:
    absolute = np.abs(theirs - ours)
    is_close = np.allclose(theirs, ours, rtol=TOLERANCE, atol=TOLERANCE)
    relative = absolute.max() / max(np.abs(ours).max(), np.finfo(np.float32).tiny)
    return Difference(name, inputs, float(absolute.max()), float(relative), is_close)


def _compare_preprocessing(
    encoder: Encoder, directory: Path, examples: Examples, kind: str
) -> list[Difference]:
    """The pixels by the file `preprocessing.py` of the export, in grey levels."""
    path = directory / "preprocessing.py"
    if not path.exists():
        return []
    spec = importlib.util.spec_from_file_location("exported_preprocessing", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    preprocessing = module.Preprocessing.from_file(directory / "preprocessor_config.json")
    theirs = preprocessing(list(examples.images))[:, 0]
    ours = np.asarray(encoder.prepare(encoder.read_images(examples.images)))[..., 0]
    absolute = np.abs(theirs - ours).max() * encoder.config.augmentation.std * 255
    is_close = bool(absolute < GREY_TOLERANCE + 0.01)  # as float32 tells them apart
    return [Difference("pixels (grey levels)", kind, float(absolute), absolute / 255, is_close)]


def _compare_tokens(
    directory: Path, examples: Examples, inputs: Inputs, kind: str
) -> list[Difference]:
    """The token ids by Transformers' tokenizer of the export."""
    if not (directory / "tokenizer_config.json").exists():
        return []
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    found = tokenizer(
        list(examples.texts), padding="max_length", truncation=True, return_tensors="np"
    )
    wrong = np.abs(found["input_ids"] - inputs.token_ids).max()
    wrong = max(wrong, np.abs(found["attention_mask"] - inputs.token_mask.astype(int)).max())
    return [Difference("token ids", kind, float(wrong), float(wrong > 0), not wrong)]
