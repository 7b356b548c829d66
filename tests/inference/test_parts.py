"""An encoder's parts in use: pairs are scored, reports written, patches and tokens filled in."""

import dataclasses

import cv2
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from support import tiny

from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.errors import UserError
from medclip_jax.finite import NotFiniteError
from medclip_jax.inference import Encoder, batches, masked, pairs, reports
from medclip_jax.inference import encoder as inference_encoder
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
    huge = dataclasses.replace(combined, batch_size=10**9)  # no larger than what there is
    np.testing.assert_array_equal(huge.caption_scores(images, TEXTS), scores)


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


def with_bad_weights(encoder: Encoder, value: float) -> Encoder:
    """The encoder with one value in place of all its weights of two dimensions or more."""
    bad = jax.tree.map(
        lambda leaf: np.full_like(leaf, value) if leaf.ndim > 1 else leaf, encoder.variables
    )
    return dataclasses.replace(encoder, variables=bad)


def hidden(images: list[np.ndarray]) -> np.ndarray:
    """Masks of all patches but the first."""
    masks = np.ones((len(images), 64), bool)
    masks[:, 0] = False
    return masks


PROMPTS = {"Effusion": (["effusion"], ["clear"])}
# All that an encoder makes of images and texts.
USES = {
    "embed_images": lambda encoder, images: encoder.embed_images(images),
    "image_features": lambda encoder, images: encoder.image_features(images),
    "embed_texts": lambda encoder, images: encoder.embed_texts(TEXTS),
    "zero_shot": lambda encoder, images: encoder.zero_shot(images, PROMPTS),
    "match": lambda encoder, images: encoder.match(images, TEXTS),
    "caption_scores": lambda encoder, images: encoder.caption_scores(images, TEXTS),
    "greedy": lambda encoder, images: encoder.generate_reports(images),
    "beam": lambda encoder, images: encoder.generate_reports(images, method="beam"),
    "nucleus": lambda encoder, images: encoder.generate_reports(images, method="nucleus"),
    "regenerate": lambda encoder, images: encoder.regenerate(images, hidden(images)),
    "fill_masks": lambda encoder, images: encoder.fill_masks(
        *encoder.tokenize(TEXTS), encoder.tokenize(TEXTS)[1]
    ),
}


@pytest.mark.parametrize("name", USES)
def test_nothing_is_made_of_values_that_are_not_finite(
    name: str, combined: Encoder, images: list[np.ndarray]
) -> None:
    for value in (np.nan, 1e38):  # finite weights overflow: products of these are infinite
        with pytest.raises(NotFiniteError, match=r"not finite for (\d+) of \1, the first"):
            USES[name](with_bad_weights(combined, value), images)


def test_the_first_input_that_overflows_is_named(combined: Encoder) -> None:
    """Infinite embeddings of the pieces that one text alone has."""
    ids, mask = combined.tokenize(TEXTS)
    pieces = [set(row[is_text].tolist()) for row, is_text in zip(ids, mask, strict=True)]
    alone = pieces[2].difference(*pieces[:2], *pieces[3:])
    flat = flatten_dict(combined.variables, sep="/")
    (name,) = (name for name in flat if "text_encoder" in name and "word" in name)
    table = np.array(flat[name])
    table[list(alone)] = np.inf
    variables = unflatten_dict(flat | {name: table}, sep="/")
    encoder = dataclasses.replace(combined, variables=variables)
    with pytest.raises(NotFiniteError, match="for 1 of 5, the first 'large right pneumothorax'"):
        encoder.embed_texts(TEXTS)
    assert np.isfinite(encoder.embed_texts(TEXTS[:2])).all()


def test_a_temperature_out_of_range_is_refused(combined: Encoder) -> None:
    for value in (np.float32(1e3), np.float32(-1e3)):
        params = dict(combined.variables["params"]) | {"log_temperature": value}
        encoder = dataclasses.replace(combined, variables={"params": params})
        with pytest.raises(UserError, match="temperature has become"):
            encoder.temperature  # noqa: B018


class _Stop(Exception):
    """Raised in place of the model's work."""


@pytest.mark.parametrize("name", USES)
def test_the_batch_size_reaches_every_part(
    name: str, combined: Encoder, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def counted(run, *arguments, **keywords):
        def count(*arrays):
            rows.extend(len(array) for array in arrays)
            raise _Stop

        return batches.in_batches(count, *arguments, **keywords)

    for module in (inference_encoder, masked, pairs, reports):
        monkeypatch.setattr(module, "in_batches", counted)
    encoder = dataclasses.replace(combined, batch_size=3)
    with pytest.raises(_Stop):
        USES[name](encoder, images)
    assert set(rows) == {3}


@pytest.mark.parametrize(("batch_size", "block"), [(3, (3, 3)), (64, (8, 64))])
def test_pairs_are_scored_in_blocks_of_the_batch_size(
    batch_size: int, block: tuple[int, int], combined: Encoder
) -> None:
    """Ten images and seven texts, whose scores are the products of their numbers."""
    sides = [{"x": np.arange(1.0, 11)}, {"x": np.arange(1.0, 8)}]
    shapes = set()

    def score(model, variables, images, texts):
        shapes.add((len(images["x"]), len(texts["x"])))
        return images["x"][:, None] * texts["x"]

    encoder = dataclasses.replace(combined, batch_size=batch_size)
    scores = pairs._score_all(encoder, score, *sides, False)
    assert shapes == {block}
    np.testing.assert_array_equal(scores, np.outer(sides[0]["x"], sides[1]["x"]))


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


def test_random_weights_are_those_that_the_run_started_from(tokens: Tokenizer) -> None:
    config = tiny.tiny_config("convirt", seed=5)
    state, _ = tiny.start(config, tokens)
    first = Encoder(tiny.tiny_config("convirt", seed=0), tokens, {})
    for random in (
        Encoder(config, tokens, {}).randomly_initialized(),
        first.randomly_initialized(seed=5),
    ):
        jax.tree.map(np.testing.assert_array_equal, random.variables["params"], state.params)
