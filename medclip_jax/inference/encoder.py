"""Trained encoders in use: load a run, embed images and texts, classify without labels.

encoder = medclip_jax.load("runs/convirt")
encoder.embed_images(["a.jpg", "b.png"]) @ encoder.embed_texts(["Small left effusion."]).T
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from ml_collections import ConfigDict

from medclip_jax import zero_shot
from medclip_jax.convert.variables_file import read_variables
from medclip_jax.data.augment import Augmentation, prepare
from medclip_jax.data.images import (
    ImageSource,
    as_image_list,
    check_not_blank,
    decode_gray,
    fit_square,
)
from medclip_jax.data.text_encoding import SURROGATE
from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.errors import UserError
from medclip_jax.inference import masked, pairs, reports
from medclip_jax.inference.batches import DEFAULT_BATCH_SIZE, call, in_batches
from medclip_jax.inference.weights import hash_weights
from medclip_jax.models.factory import build_model
from medclip_jax.models.image_text_model import ImageTextModel
from medclip_jax.train.masks import BatchMasks
from medclip_jax.train.state import (
    Batch,
    dummy_batch,
    init_variables,
    quick_compilation,
    with_initial,
)

Embeddings = Float[np.ndarray, "num_examples size"]
PairScores = Float[np.ndarray, "images texts"]
Views = Float[np.ndarray, "num_examples size size"]

NO_EMBEDDINGS = (
    "this run trained no embeddings: its config has no contrastive objective and no matching "
    "of embeddings"
)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An image and a text encoder with a shared space.

    Attributes:
        variables: Flax variables ("params", "batch_stats").
        step: the training step they are from; 0 for random ones.
        initial_file: the published weights that training started from, if it was given some.
        batch_size: rows of a batch where a method is not given another.
    """

    config: ConfigDict
    tokenizer: Tokenizer
    variables: Mapping[str, Any]
    step: int = 0
    initial_file: Path | None = None
    batch_size: int = DEFAULT_BATCH_SIZE

    def embed_images(
        self,
        images: Sequence[ImageSource],
        *,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> Embeddings:
        """Unit-length embeddings `[N, D]` of paths, encoded bytes, uint8 arrays or PIL images.

        Raises:
            UserError: an image cannot be read or is one shade of grey, or the model makes of it
                what is not finite; so does every method below.
        """
        return self._encode_images("image_embeddings", images, batch_size, progress)

    def embed_readable_images(
        self,
        images: Sequence[ImageSource],
        *,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> tuple[Embeddings, dict[int, str]]:
        """As `embed_images`, but an image for which that raises an error is left out.

        Returns:
            The embeddings of the others, in order, and why those left out were, by position.
        """
        reasons: dict[int, str] = {}
        embeddings = self._encode_images("image_embeddings", images, batch_size, progress, reasons)
        return np.delete(embeddings, list(reasons), axis=0), reasons

    def image_features(
        self,
        images: Sequence[ImageSource],
        *,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> Embeddings:
        """The image encoder's pooled output `[N, F]` before the projection, for linear probes."""
        return self._encode_images("image_features", images, batch_size, progress)

    def embed_texts(
        self, texts: Sequence[str], *, batch_size: int | None = None, progress: bool = False
    ) -> Embeddings:
        """Unit-length embeddings `[N, D]`; a text beyond `text_encoder.max_length` is cut."""
        if self.model.text_projection is None:
            raise UserError(NO_EMBEDDINGS)

        def run(token_ids: np.ndarray, token_mask: np.ndarray) -> dict[str, jax.Array]:
            outputs = self.apply("encode_text", token_ids, token_mask)
            return {"text_embeddings": outputs["text_embeddings"]}

        rows = self.batch_size if batch_size is None else batch_size
        return in_batches(run, self.tokenize, texts, rows, "texts", progress)["text_embeddings"]

    def zero_shot(
        self, images: Sequence[ImageSource], prompts: zero_shot.Prompts
    ) -> Float[np.ndarray, "num_examples num_classes"]:
        """Probabilities `[N, classes]` of findings, each from positive and negative prompts.

        The embeddings of a list are averaged, then normalised; the probability is the softmax
        over the two cosine similarities divided by the temperature.

        Raises:
            UserError: an image cannot be read, there are no prompts, or a label lacks some.
        """
        zero_shot.check_prompts(prompts)
        label_embeddings = zero_shot.prompt_embeddings(self.embed_texts, prompts)
        image_embeddings = self.embed_images(images)
        scores = zero_shot.probabilities(image_embeddings, label_embeddings, self.temperature)
        return scores.astype(np.float32)

    def match(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, progress: bool = False
    ) -> PairScores:
        """The matching logit `[images, texts]` of every pair; above 0 is a match.

        Raises:
            UserError: the run trained no matching, or an image cannot be read.
        """
        return pairs.match(self, as_image_list(images), texts, progress)

    def caption_scores(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, progress: bool = False
    ) -> PairScores:
        """The mean log-likelihood `[images, texts]` of a text's tokens, given the image.

        Raises:
            UserError: the run trained no captioning, or an image cannot be read.
        """
        return pairs.caption_scores(self, as_image_list(images), texts, progress)

    def generate_reports(
        self,
        images: Sequence[ImageSource],
        *,
        method: str = "greedy",
        num_beams: int = 4,
        length_penalty: float = 1.0,
        top_p: float = 0.9,
        seed: int = 0,
        progress: bool = False,
    ) -> list[str]:
        """Writes a report for each image.

        Args:
            images: what `embed_images` takes.
            method: "greedy"; "beam", the best of `num_beams` by the sum of log-likelihoods divided
                by length to the power `length_penalty`; or "nucleus", drawn from the likeliest
                tokens that hold `top_p` of the probability.
            num_beams: see `method`, as for the next two.
            length_penalty: larger favours longer reports.
            top_p: 1 draws from all tokens.
            seed: of the draws.
            progress: whether to show a bar.

        Raises:
            UserError: the run trained no captioning, or an argument is impossible.
        """
        settings = reports.Settings(method, num_beams, length_penalty, top_p)
        return reports.generate_reports(self, as_image_list(images), settings, seed, progress)

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of the patches of an image."""
        return masked.patch_grid(self)

    def view(self, images: Sequence[ImageSource]) -> Views:
        """The images as the model sees them, grey from 0 to 1, `[N, size, size]`."""
        return masked.view(self, as_image_list(images))

    def regenerate(
        self,
        images: Sequence[ImageSource],
        patch_masks: Bool[np.ndarray, "num_examples patches"],
        texts: Sequence[str] | None = None,
    ) -> Views:
        """The views with the masked patches predicted from the rest, and the text where there is.

        Args:
            images: what `embed_images` takes.
            patch_masks: true on the patches to predict, row by row from the top left.
            texts: a text an image, "" for none.

        Raises:
            UserError: the run trained no masked vision.
        """
        return masked.regenerate(self, as_image_list(images), patch_masks, texts)

    def fill_masks(
        self,
        token_ids: Int[np.ndarray, "num_examples length"],
        token_mask: Bool[np.ndarray, "num_examples length"],
        is_masked: Bool[np.ndarray, "num_examples length"],
        images: Sequence[ImageSource] | None = None,
    ) -> Int[np.ndarray, "num_examples length"]:
        """The token ids with those that `is_masked` replaced by the likeliest.

        Raises:
            UserError: the run trained no masked language modelling.
        """
        images = None if images is None else as_image_list(images)
        return masked.fill_masks(self, token_ids, token_mask, is_masked, images)

    @functools.cached_property
    def temperature(self) -> float:
        """What the cosine similarities are divided by.

        Raises:
            UserError: it has become 0 or infinite.
        """
        params = self.variables["params"]
        if "log_temperature" not in params:
            return self.config.temperature.init
        with np.errstate(over="ignore"):
            value = float(np.exp(params["log_temperature"]))
        if not 0 < value < np.inf:
            raise UserError(
                f"the temperature has become {value:g}; use the weights of another step"
            )
        return value

    def randomly_initialized(self, seed: int = 0) -> "Encoder":
        """The same architecture and tokenizer with random weights: the baseline of every figure.

        Args:
            seed: added to the run's own; 0 gives the random weights that this run started from.
        """
        init = jax.jit(self._init, static_argnums=0, compiler_options=quick_compilation())
        return dataclasses.replace(self, variables=init(self.config.seed + seed), step=0)

    def shapes(self) -> Any:
        """The shapes and types that the model's variables have."""
        return jax.eval_shape(lambda: self._init(0))

    def as_given(self, seed: int = 0) -> "Encoder | None":
        """As training started: random weights but for the published ones, if it was given some."""
        if self.initial_file is None:
            return None
        initial, _ = read_variables(self.initial_file)
        random = self.randomly_initialized(seed)
        return dataclasses.replace(random, variables=with_initial(random.variables, initial))

    @functools.cached_property
    def model(self) -> ImageTextModel:
        """The module that `variables` belong to."""
        config = self.config.copy_and_resolve_references()
        config.attention = "auto"  # the device that it was trained on may not be here
        return build_model(config, self.tokenizer.vocab_size)

    def apply(self, method: str, *arrays: Any) -> Any:
        """Runs a method of the model, compiled."""
        return _compiled(self.model, self.device_variables, method, *arrays)

    @functools.cached_property
    def weights_hash(self) -> str:
        """What tells these weights from all others; see `weights.hash_weights`."""
        return hash_weights(self.variables)

    @functools.cached_property
    def device_variables(self) -> Any:
        """The variables where the computation is."""
        return jax.device_put(self.variables)

    def read_images(self, images: Sequence[ImageSource]) -> UInt8[np.ndarray, "rows size size"]:
        """The padded 8-bit squares that the input pipeline makes of images."""
        return np.stack([self._read_image(image) for image in images])

    def encode_images(self, pixels: UInt8[np.ndarray, "rows size size"]) -> dict[str, jax.Array]:
        """The outputs of `ImageTextModel.encode_image`."""
        return self.apply("encode_image", self.prepare(pixels))

    def prepare(self, pixels: UInt8[np.ndarray, "rows size size"]) -> jax.Array:
        """Normalised views, without augmentation."""
        return prepare(jnp.asarray(pixels), Augmentation.from_config(self.config.augmentation))

    def tokenize(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and mask `[N, max_length]`.

        Raises:
            UserError: it is one string, or one of the texts is none.
        """
        if isinstance(texts, str):
            raise UserError("texts must be a list of strings, not one string")
        for text in texts:
            if not isinstance(text, str):
                raise UserError(f"a text is {text!r:.80}, but must be a string")
            if SURROGATE.search(text):
                raise UserError(f"the text {text!r:.80} holds half a character (a surrogate)")
        return self.tokenizer.encode_batch(texts, self.config.text_encoder.max_length)

    def _init(self, seed: int) -> dict[str, Any]:
        return init_variables(self.model, seed, self._example())

    def _example(self) -> Batch:
        """A batch to initialise with."""
        config = self.config
        masks = BatchMasks.from_config(config, self.tokenizer)
        # The number of labels shapes no parameter.
        batch = dummy_batch(config.augmentation.crop_size, config.text_encoder.max_length, 1)
        return masks(batch, jax.random.key(0))

    def _read_image(
        self, image: ImageSource, name: str = "image"
    ) -> UInt8[np.ndarray, "size size"]:
        gray = decode_gray(image, name)
        check_not_blank(gray, str(image) if isinstance(image, str | os.PathLike) else name)
        return fit_square(gray, self.config.data.image_size)

    def _encode_images(
        self,
        output: str,
        images: Sequence[ImageSource],
        batch_size: int | None,
        progress: bool,
        reasons: dict[int, str] | None = None,
    ) -> Embeddings:
        """One output of `encode_images`, a row an image.

        Where `reasons` is given, it takes up why an image cannot be read, and the image's row
        means nothing.
        """
        images = as_image_list(images)
        size = self.config.data.image_size

        def run(pixels: np.ndarray) -> dict[str, jax.Array]:
            outputs = self.encode_images(pixels)
            if output not in outputs:
                raise UserError(NO_EMBEDDINGS)
            return {output: outputs[output]}

        def load(part: Sequence[int]) -> tuple[np.ndarray]:
            pixels = np.zeros((len(part), size, size), np.uint8)
            for square, index in zip(pixels, part, strict=True):
                try:
                    square[:] = self._read_image(images[index], f"images[{index}]")
                except UserError as error:
                    if reasons is None:
                        raise
                    reasons[index] = str(error)
            return (pixels,)

        places = range(len(images))
        rows = self.batch_size if batch_size is None else batch_size
        return in_batches(run, load, places, rows, "images", progress, names=images)[output]


_compiled = jax.jit(call, static_argnums=(0, 2))
