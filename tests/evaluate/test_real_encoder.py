"""The package's own encoder is what the protocols take it for."""

import numpy as np
import pytest

from medclip_jax.config import base_config
from medclip_jax.data.images import encode_jpeg
from medclip_jax.data.tokenizer import load_tokenizer, train_wordpiece
from medclip_jax.evaluate.prompts import default_prompts
from medclip_jax.evaluate.zero_shot import probabilities, prompt_embeddings
from medclip_jax.inference import Encoder

TEXTS = ("No acute process.", "Left pleural effusion.", "Pulmonary edema is present.")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    train_wordpiece(TEXTS, 100, directory)
    config = base_config().unlock()
    config.image_encoder.update(name="resnet18", width=8)
    config.text_encoder.update(
        hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_length=12
    )
    config.projection.size = 8
    config.data.image_size = config.augmentation.crop_size = 64
    return Encoder(config, load_tokenizer(directory), {}).randomly_initialized(seed=4)


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    pixels = generator.integers(256, size=(5, 50, 40), dtype=np.uint8)
    return [encode_jpeg(image) for image in pixels]


def test_zero_shot_is_that_of_the_evaluation(encoder, images):
    prompts = default_prompts(["Edema", "No Finding"])
    expected = probabilities(
        encoder.embed_images(images),
        prompt_embeddings(encoder.embed_texts, prompts),
        encoder.temperature,
    )
    np.testing.assert_allclose(encoder.zero_shot(images, prompts), expected, atol=1e-5)


def test_features_are_those_before_the_projection(encoder, images):
    """ResNet-18 of width 8 ends in 64 channels; the projection has 8, of unit length."""
    assert encoder.image_features(images).shape == (5, 64)
    embeddings = encoder.embed_images(images)
    assert embeddings.shape == (5, 8)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
