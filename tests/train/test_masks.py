"""What a step hides: only what the active objectives ask for, anew with every key."""

import jax
import numpy as np
import pytest
from support import tiny

from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.models.parts import patch_size
from medclip_jax.train.masks import BatchMasks

LANGUAGE = {"masked_token_ids", "token_is_masked", "image_in_view"}
VISION = {"patch_is_masked", "text_in_view"}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokens"))


@pytest.mark.parametrize(
    ("language", "vision", "added"),
    [(0.0, 0.0, set()), (1.0, 0.0, LANGUAGE), (0.0, 1.0, VISION), (1.0, 1.0, LANGUAGE | VISION)],
)
def test_only_what_is_asked_for_is_hidden(
    language: float, vision: float, added: set[str], tokens: Tokenizer
) -> None:
    config = tiny.tiny_config(
        "mixed",
        **{
            "objectives.masked_language.weight": language,
            "objectives.masked_vision.weight": vision,
        },
    )
    batch = tiny.batch(tokens)
    masked = BatchMasks.from_config(config, tokens)(batch, jax.random.key(0))
    assert set(masked) - set(batch) == added
    for key, array in batch.items():
        np.testing.assert_array_equal(masked[key], array)


def test_shares_are_those_of_the_config(tokens: Tokenizer) -> None:
    config = tiny.tiny_config(
        "mixed",
        **{
            "objectives.masked_language.rates": (0.3,),
            "objectives.masked_language.image_rate": 0.25,
            "objectives.masked_vision.ratios": (0.5,),
            "objectives.masked_vision.text_rate": 0.75,
        },
    )
    masks = BatchMasks.from_config(config, tokens)
    batch = tiny.batch(tokens, rows=2000)
    first, second = (masks(batch, jax.random.key(seed)) for seed in (0, 1))
    is_special = np.isin(batch["token_ids"], tokens.special_ids)
    assert not np.asarray(first["token_is_masked"])[is_special].any()
    share = np.asarray(first["token_is_masked"])[~is_special].mean()
    # Of about 5,000 words, 2,000 rows and 2,000 rows: four standard deviations.
    assert share == pytest.approx(0.3, abs=0.03)
    assert first["image_in_view"].mean() == pytest.approx(0.25, abs=0.04)
    assert first["text_in_view"].mean() == pytest.approx(0.75, abs=0.04)
    num_patches = first["patch_is_masked"].shape[1]
    assert num_patches == (tiny.SIZE // patch_size(config)) ** 2
    np.testing.assert_array_equal(first["patch_is_masked"].sum(axis=1), num_patches // 2)
    for key in LANGUAGE | VISION:
        assert not np.array_equal(first[key], second[key])
