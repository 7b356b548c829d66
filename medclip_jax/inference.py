"""Trained encoders in use: load a run, embed images and texts, classify without labels.

encoder = medclip_jax.load("runs/convirt")
encoder.embed_images(["a.jpg", "b.png"]) @ encoder.embed_texts(["Small left effusion."]).T
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from tqdm import tqdm

from medclip_jax import zero_shot
from medclip_jax.config import read_config
from medclip_jax.data.augment import Augmentation, prepare
from medclip_jax.data.images import ImageSource, decode_gray, fit_square
from medclip_jax.data.tokenizer import Tokenizer, load_tokenizer
from medclip_jax.errors import UserError
from medclip_jax.models.factory import build_model
from medclip_jax.train.checkpoint import Checkpointer
from medclip_jax.train.state import dummy_batch, init_variables, quick_compilation

Embeddings = Float[np.ndarray, "num_examples size"]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An image and a text encoder with a shared space.

    Attributes:
        variables: Flax variables ("params", "batch_stats").
        step: the training step they are from; 0 for random ones.
    """

    config: ConfigDict
    tokenizer: Tokenizer
    variables: Mapping[str, Any]
    step: int = 0

    def embed_images(
        self, images: Sequence[ImageSource], *, batch_size: int = 64, progress: bool = False
    ) -> Embeddings:
        """Unit-length embeddings `[N, D]` of paths, encoded bytes, uint8 arrays or PIL images.

        Raises:
            UserError: an image cannot be read.
        """
        return self._encode_images("image_embeddings", images, batch_size, progress)

    def image_features(
        self, images: Sequence[ImageSource], *, batch_size: int = 64, progress: bool = False
    ) -> Embeddings:
        """The image encoder's pooled output `[N, F]` before the projection, for linear probes."""
        return self._encode_images("image_features", images, batch_size, progress)

    def embed_texts(
        self, texts: Sequence[str], *, batch_size: int = 64, progress: bool = False
    ) -> Embeddings:
        """Unit-length embeddings `[N, D]`; a text beyond `text_encoder.max_length` is cut."""
        if isinstance(texts, str):
            raise UserError("embed_texts takes a list of strings, not one string")

        def load(part: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            return self.tokenizer.encode_batch(part, self.config.text_encoder.max_length)

        return _in_batches(self._text_fn, load, texts, batch_size, "texts", progress)

    def zero_shot(
        self, images: Sequence[ImageSource], prompts: zero_shot.Prompts
    ) -> Float[np.ndarray, "num_examples num_classes"]:
        """Probabilities `[N, classes]` of findings, each from positive and negative prompts.

        The embeddings of a list are averaged, then normalised; the probability is the softmax
        over the two cosine similarities divided by the temperature.

        Raises:
            UserError: an image cannot be read, or a label lacks prompts.
        """
        for name, pair in prompts.items():
            if isinstance(pair, str) or len(pair) != 2 or not all(pair):
                raise UserError(f"the prompts of {name!r} must be (positive texts, negative texts)")
        label_embeddings = zero_shot.prompt_embeddings(self.embed_texts, prompts)
        image_embeddings = self.embed_images(images)
        scores = zero_shot.probabilities(image_embeddings, label_embeddings, self.temperature)
        return scores.astype(np.float32)

    @functools.cached_property
    def temperature(self) -> float:
        """What the cosine similarities are divided by."""
        config, params = self.config.temperature, self.variables["params"]
        return float(np.exp(params["log_temperature"])) if config.learnable else config.init

    def randomly_initialized(self, seed: int = 0) -> "Encoder":
        """The same architecture and tokenizer with random weights: the baseline of every figure."""
        batch = dummy_batch(self.config.augmentation.crop_size, self.config.text_encoder.max_length)
        init = jax.jit(
            lambda: init_variables(self._model, seed, batch), compiler_options=quick_compilation()
        )
        return dataclasses.replace(self, variables=init(), step=0)

    @functools.cached_property
    def _model(self) -> Any:
        return build_model(self.config, self.tokenizer.vocab_size)

    @functools.cached_property
    def _image_fn(self) -> Callable[..., dict[str, jax.Array]]:
        augmentation = Augmentation.from_config(self.config.augmentation)
        device_variables = jax.device_put(self.variables)

        @jax.jit
        def encode(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
            pixels = prepare(images, augmentation)
            return self._model.apply(variables, pixels, train=False, method="encode_image")

        return functools.partial(encode, device_variables)

    @functools.cached_property
    def _text_fn(self) -> Callable[..., jax.Array]:
        device_variables = jax.device_put(self.variables)

        @jax.jit
        def encode(variables: Any, token_ids: jax.Array, token_mask: jax.Array) -> jax.Array:
            outputs = self._model.apply(
                variables, token_ids, token_mask, train=False, method="encode_text"
            )
            return outputs["text_embeddings"]

        return functools.partial(encode, device_variables)

    def _encode_images(
        self, output: str, images: Sequence[ImageSource], batch_size: int, progress: bool
    ) -> Embeddings:
        size = self.config.data.image_size

        def load(part: Sequence[ImageSource]) -> tuple[np.ndarray]:
            return (np.stack([fit_square(decode_gray(image), size) for image in part]),)

        def run(pixels: np.ndarray) -> jax.Array:
            return self._image_fn(pixels)[output]

        return _in_batches(run, load, images, batch_size, "images", progress)


def load(directory: str | Path) -> Encoder:
    """The encoders of a run's workdir: the checkpoint of the lowest validation loss, else the last.

    Raises:
        UserError: the directory is no run, or holds no checkpoint.
    """
    directory = Path(directory)
    config = read_config(directory / "config.json")
    tokenizer = load_tokenizer(directory / "tokenizer")
    checkpoints = directory / "checkpoints"
    checkpointer = Checkpointer(checkpoints, read_only=True) if checkpoints.is_dir() else None
    step = checkpointer.best_step() if checkpointer else None
    if checkpointer is None or step is None:
        raise UserError(f"{checkpoints} holds no checkpoint yet: let the run reach one")
    variables = checkpointer.restore_model(step)
    checkpointer.close()
    return Encoder(config, tokenizer, variables, step)


def _in_batches(
    run: Callable[..., jax.Array],
    load_part: Callable[[Any], tuple[np.ndarray, ...]],
    items: Sequence[Any],
    batch_size: int,
    unit: str,
    progress: bool,
) -> Embeddings:
    """Runs a jitted function on batches of one shape; the last is filled up, then cut."""
    results = []
    with tqdm(total=len(items), unit=unit, disable=not progress or None) as bar:
        for start in range(0, len(items), batch_size):
            part = items[start : start + batch_size]
            arrays = load_part(part)
            padded = [np.resize(array, (batch_size, *array.shape[1:])) for array in arrays]
            results.append(run(*padded)[: len(part)])
            bar.update(len(part))
    if not results:
        raise UserError(f"there are no {unit} to embed")
    return np.concatenate(jax.device_get(results)).astype(np.float32)
