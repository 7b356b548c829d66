"""An encoder's parts in use: pairs are scored, reports written, patches and tokens filled in."""

import cv2
import numpy as np
import pytest
from support import tiny

from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.errors import UserError
from medclip_jax.inference import Encoder
from medclip_jax.models.patches import patchify

TEXTS = [*tiny.TEXTS, "small right effusion"]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    small = generator.integers(0, 255, (10, 8, 8), np.uint8)
    return [cv2.resize(image, (70, 64)) for image in small]


def make_encoder(name: str, tokens: Tokenizer, **changes) -> Encoder:
    """An encoder of a tiny model with random weights."""
    return Encoder(tiny.tiny_config(name, **changes), tokens, {}).randomly_initialized(3)


@pytest.fixture(scope="module")
def combined(tokens: Tokenizer) -> Encoder:
    return make_encoder("combined", tokens)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("combined", {}),
        ("matching", {"image_encoder.name": "vit"}),
        (
            "matching",
            {"image_encoder.name": "vit", "objectives.matching.kind": "margin"},
        ),
    ],
)
def test_every_image_is_matched_with_every_text(
    name: str, changes: dict, tokens: Tokenizer, images: list[np.ndarray]
) -> None:
    encoder = make_encoder(name, tokens, **changes)
    scores = encoder.match(images, TEXTS)
    assert scores.shape == (10, 5) and scores.dtype == np.float32
    image_side = encoder.encode_images(encoder.read_images(images))
    ids, mask = encoder.tokenize(TEXTS)
    text_side = encoder.apply("encode_text", ids, mask) | {"token_mask": mask}
    for image, text in ((0, 0), (9, 4), (3, 2)):
        one_image = {key: array[image][None] for key, array in image_side.items()}
        one_text = {key: array[text][None] for key, array in text_side.items()}
        expected = encoder.apply("match", one_image, one_text)[0]
        assert scores[image, text] == pytest.approx(float(expected), abs=1e-4)
    assert np.ptp(scores, axis=0).min() > 0 and np.ptp(scores, axis=1).min() > 0


def test_caption_scores_are_mean_log_likelihoods(
    combined: Encoder, images: list[np.ndarray]
) -> None:
    scores = combined.caption_scores(images, TEXTS)
    assert scores.shape == (10, 5)
    grid = combined.encode_images(combined.read_images(images))["image_grid"]
    ids, mask = combined.tokenize(TEXTS)
    decoder = combined.model.caption_decoder
    params = {"params": combined.variables["params"]["caption_decoder"]}
    for image, text in ((0, 0), (9, 4)):
        outputs = decoder.apply(
            params, grid[image][None], ids[text][None], mask[text][None], deterministic=True
        )
        logits = np.asarray(outputs["caption_logits"], np.float64)[0]
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        chosen = [log_p[place, ids[text, place + 1]] for place in range(mask[text].sum() - 1)]
        assert scores[image, text] == pytest.approx(np.mean(chosen), abs=1e-4)


def test_reports_are_written_by_every_method(combined: Encoder, images: list[np.ndarray]) -> None:
    greedy = combined.generate_reports(images)
    assert len(greedy) == 10 and all(isinstance(text, str) for text in greedy)
    assert combined.generate_reports(images[:3]) == greedy[:3]
    assert combined.generate_reports(images, method="beam", num_beams=1) == greedy
    nucleus = [
        combined.generate_reports(images, method="nucleus", top_p=1.0, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert nucleus[0] == nucleus[1] != nucleus[2]
    with pytest.raises(UserError, match="give one of greedy, beam, nucleus"):
        combined.generate_reports(images, method="best")


def test_only_masked_patches_change(combined: Encoder, images: list[np.ndarray]) -> None:
    rows, columns = combined.patch_grid
    assert (rows, columns) == (8, 8)
    masks = np.random.default_rng(1).random((10, 64)) < 0.4
    view = combined.view(images)
    assert view.shape == (10, tiny.SIZE, tiny.SIZE) and 0 <= view.min() < view.max() <= 1
    alone, read = (combined.regenerate(images, masks, texts) for texts in (None, [*TEXTS, *TEXTS]))
    difference = np.abs(patchify(alone[..., None] - view[..., None], 8)).max(axis=2)
    np.testing.assert_array_equal(difference[~masks] < 1e-6, True)
    assert (difference[masks] > 1e-3).all()
    assert not np.allclose(alone, read)
    np.testing.assert_allclose(
        combined.regenerate(images[:2], masks[:2], ["", TEXTS[1]]),
        [alone[0], combined.regenerate(images[1:2], masks[1:2], [TEXTS[1]])[0]],
        atol=1e-5,
    )


def test_only_masked_tokens_change(combined: Encoder, images: list[np.ndarray]) -> None:
    ids, mask = combined.tokenize(TEXTS)
    masked = mask & (np.random.default_rng(2).random(ids.shape) < 0.5)
    filled = combined.fill_masks(ids, mask, masked, images[:5])
    np.testing.assert_array_equal(filled[~masked], ids[~masked])
    hidden = combined.fill_masks(np.where(masked, 7, ids), mask, masked, images[:5])
    np.testing.assert_array_equal(hidden[masked], filled[masked])
    alone = combined.fill_masks(ids, mask, masked)
    np.testing.assert_array_equal(alone, combined.fill_masks(ids, mask, masked, None))
    assert alone.shape == filled.shape == ids.shape


def test_what_a_run_did_not_train_is_refused(tokens: Tokenizer, images: list[np.ndarray]) -> None:
    captions_only = make_encoder(
        "radtex", tokens, **{"image_encoder.name": "vit", "image_encoder.pooling": "mean"}
    )
    masks = np.zeros((10, 64), bool)
    ids, mask = captions_only.tokenize(TEXTS)
    for use, message in (
        (lambda: captions_only.embed_images(images), "trained no embeddings"),
        (lambda: captions_only.embed_texts(TEXTS), "trained no embeddings"),
        (lambda: captions_only.match(images, TEXTS), "trained no matching"),
        (lambda: captions_only.regenerate(images, masks), "trained no masked vision"),
        (lambda: captions_only.patch_grid, "trained no masked vision"),
        (lambda: captions_only.fill_masks(ids, mask, mask), "trained no masked language"),
    ):
        with pytest.raises(UserError, match=message):
            use()
    assert captions_only.image_features(images).shape == (10, 16)
    embeddings_only = make_encoder("matching", tokens, **{"image_encoder.name": "vit"})
    with pytest.raises(UserError, match="trained no captioning"):
        embeddings_only.generate_reports(images)
    with pytest.raises(UserError, match="trained no captioning"):
        embeddings_only.caption_scores(images, TEXTS)


def test_normalised_patches_cannot_be_regenerated(
    tokens: Tokenizer, images: list[np.ndarray]
) -> None:
    encoder = make_encoder(
        "combined", tokens, **{"objectives.masked_vision.normalize_patches": True}
    )
    with pytest.raises(UserError, match="normalize_patches=False"):
        encoder.regenerate(images, np.zeros((10, 64), bool))


def test_images_alone_are_regenerated_without_texts(
    tokens: Tokenizer, images: list[np.ndarray]
) -> None:
    """The masked autoencoder of images: no text encoder at all."""
    weights = {
        f"objectives.{name}.weight": float(name == "masked_vision")
        for name in tiny.tiny_config("combined").objectives
    }
    encoder = make_encoder("combined", tokens, **{"text_encoder.name": "none"}, **weights)
    masks = np.random.default_rng(1).random((10, 64)) < 0.4
    assert encoder.regenerate(images, masks).shape == (10, tiny.SIZE, tiny.SIZE)
    with pytest.raises(UserError, match="reads no texts"):
        encoder.regenerate(images, masks, [*TEXTS, *TEXTS])
