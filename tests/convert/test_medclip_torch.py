"""The whole model in PyTorch computes what ours does, output by output."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from support import tiny
from support.exports import random_encoder, scaled
from support.whole_models import make_inputs, torch_inputs, write

from medclip_jax.convert.outputs import Inputs, our_outputs
from medclip_jax.convert.torch_names import torch_state_dict
from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.inference import Encoder
from medclip_jax.models.generation import generate

torch = pytest.importorskip("torch")
medclip_torch = pytest.importorskip("medclip_jax.convert.pytorch_files.medclip_torch")

TOLERANCE = 1e-5
LOSSES = tiny.tiny_config("combined").objectives.keys()


def only(*names: str) -> dict[str, float]:
    """Changes that leave these objectives alone on."""
    return {f"objectives.{name}.weight": float(name in names) for name in LOSSES}


def vit(pooling: str, **changes: Any) -> dict[str, Any]:
    return {"image_encoder.name": "vit", "image_encoder.pooling": pooling, **changes}


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in tiny.CONFIGS},
    "fine grid, three channels": (
        "convirt",
        {
            "image_encoder.output_stride": 16,
            "image_encoder.channels": 3,
            "temperature.learnable": False,
        },
    ),
    "resnet50": (
        "convirt",
        {
            "image_encoder.name": "resnet50",
            "image_encoder.pooling": "max",
            "projection.kind": "linear",
            "projection.bias": False,
            "text_encoder.pooling": "max",
        },
    ),
    "vit cls": ("convirt", vit("cls", **{"text_encoder.pooling": "cls"})),
    "vit mean": ("convirt", vit("mean", **{"image_encoder.channels": 3})),
    "vit max": ("convirt", vit("max", **{"image_encoder.num_layers": 3})),
    "words alone": (
        "convirt",
        vit("cls", **{"text_encoder.num_layers": 0, "projection.bias": False}),
    ),
    "deep text, learnt bias": (
        "convirt",
        vit("cls", **{"text_encoder.num_layers": 3}, **only("sigmoid_contrastive")),
    ),
    "words and regions": ("convirt", only("contrastive", "local_contrastive")),
    "margin": ("matching", vit("cls", **{"objectives.matching.kind": "margin"})),
    "matching by fusion": (
        "matching",
        vit("cls", **{"fusion.num_layers": 2, "fusion.hidden_size": 8, "fusion.num_heads": 2}),
    ),
    **{
        f"one transformer, {pooling}": (
            "mixed",
            {
                "image_encoder.name": "patches",
                "image_encoder.pooling": pooling,
                "text_encoder.num_layers": 0,
                "text_encoder.pooling": pooling,
                "fusion.shared": True,
                "fusion.num_layers": 2,
            },
        )
        for pooling in ("cls", "mean", "max")
    },
    "forwards only": (
        "radtex",
        {
            "objectives.captioning.backward": False,
            "caption_decoder.num_layers": 2,
            "image_encoder.output_stride": 16,
        },
    ),
    "images alone": ("combined", {"text_encoder.name": "none", **only("masked_vision")}),
    "fusion unused": (
        "combined",
        {"caption_decoder.num_layers": 2, **only("contrastive", "captioning")},
    ),
    "combined, coarse grid": (
        "combined",
        {"image_encoder.name": "resnet18", "objectives.masked_vision.scales": (1, 2)},
    ),
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokens"))


@functools.cache
def make_encoder(variant: str, tokens: Tokenizer) -> Encoder:
    name, changes = VARIANTS[variant]
    return random_encoder(tokens, name, **changes)


def torch_outputs(model: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    image, ids, mask, masked = torch_inputs(inputs)
    with torch.no_grad():
        outputs = model(pixel_values=image, input_ids=ids, attention_mask=mask, ignored=1)
        if model.architecture["pixel_head"]:
            text = outputs.get("text_tokens")
            outputs["patch_predictions"] = model.fill_patches(image, masked, text, mask)
    return {name: tensor.numpy() for name, tensor in outputs.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs(variant: str, tokens: Tokenizer, tmp_path: Path) -> None:
    encoder = make_encoder(variant, tokens)
    inputs = make_inputs(encoder)
    model = medclip_torch.load(write(encoder, tmp_path))
    ours, theirs = our_outputs(encoder, inputs), torch_outputs(model, inputs)
    assert theirs.keys() == ours.keys()
    for name, expected in ours.items():
        assert np.abs(expected).max() > 0.05, name
        np.testing.assert_allclose(theirs[name], expected, atol=TOLERANCE, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("variant", ["radtex", "fusion unused"])
def test_greedy_reports(variant: str, tokens: Tokenizer, tmp_path: Path) -> None:
    # So that the next token depends on the image and its place more than on the last one.
    factors = {"position_embeddings": 8.0, "image_attention/output/kernel": 8.0, "_bias": 0.0}
    encoder = scaled(make_encoder(variant, tokens), factors | {"mlp_norm/bias": 0.0})
    inputs = make_inputs(encoder)
    inputs.image[:] += np.arange(-2, 2, dtype=np.float32).reshape(4, 1, 1, 1)
    model = medclip_torch.load(write(encoder, tmp_path))
    image = torch_inputs(inputs)[0]
    frame = encoder.tokenize([""])[0][0]
    start, end, pad = int(frame[0]), int(frame[1]), encoder.tokenizer.pad_id
    apply = functools.partial(encoder.model.apply, encoder.variables)

    @jax.jit
    def generated(end_id: Any) -> Any:
        return generate(
            lambda *arrays: apply(*arrays, method="start_caption"),
            lambda *arrays: apply(*arrays, method="extend_caption"),
            apply(inputs.image, method="encode_image")["image_grid"],
            max_length=tiny.LENGTH,
            start_id=start,
            end_id=end_id,
            pad_id=pad,
        )

    unended = model.generate(image, start, -1, tiny.LENGTH).numpy()
    # A token that is written early ends some of the texts.
    for end_id in (end, int(unended[0, 3])):
        written = model.generate(image, start, end_id, tiny.LENGTH, pad).numpy()
        np.testing.assert_array_equal(written, generated(end_id))
    assert (written[0, 4:] == pad).all()
    assert len(np.unique(unended, axis=0)) > 1, "the texts do not depend on the images"


@pytest.mark.parametrize("variant", ["mixed", "combined"])
def test_tokens_without_an_image(variant: str, tokens: Tokenizer, tmp_path: Path) -> None:
    """They are filled in as with an image that is not in view."""
    encoder = make_encoder(variant, tokens)
    inputs = make_inputs(encoder)
    model = medclip_torch.load(write(encoder, tmp_path))
    nowhere = np.zeros(4, bool)
    batch = {
        "masked_token_ids": inputs.token_ids,
        "token_mask": inputs.token_mask,
        "image_in_view": nowhere,
        "has_image": nowhere,
    }
    grid = encoder.apply("encode_image", inputs.image)["image_grid"]
    expected = encoder.apply("fill_tokens", batch, grid)
    _, ids, mask, _ = torch_inputs(inputs)
    with torch.no_grad():
        found = model.fill_tokens(None, ids, mask)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=1e-5)


def test_every_parameter_counts(tokens: Tokenizer, tmp_path: Path) -> None:
    """A small change of any tensor changes an output: the comparison above would see it."""
    encoder = make_encoder("combined", tokens)
    inputs = make_inputs(encoder)
    model = medclip_torch.load(write(encoder, tmp_path))
    before = torch_outputs(model, inputs)
    for name, tensor in model.state_dict().items():
        # The backward decoder has no output; a bias of keys is the same for all of them.
        if "backward_layers" in name or name.endswith("key.bias"):
            continue
        kept = tensor.clone()
        tensor += 0.1 * torch.randn(tensor.shape, generator=torch.manual_seed(0))
        after = torch_outputs(model, inputs)
        tensor.copy_(kept)
        assert any(np.abs(after[key] - before[key]).max() > 1e-4 for key in before), name


def test_epsilons(tokens: Tokenizer, tmp_path: Path) -> None:
    """Every norm sees variances that are as small as its epsilon, or nearly so."""
    encoder = make_encoder("combined", tokens)
    arrays = flatten_dict(encoder.variables["params"])
    small = {path: leaf * (1 if path[-1] == "kernel" else 0.003) for path, leaf in arrays.items()}
    encoder = Encoder(encoder.config, tokens, {"params": unflatten_dict(small)})
    inputs = make_inputs(encoder)
    inputs = inputs._replace(image=0.003 * inputs.image)
    model = medclip_torch.load(write(encoder, tmp_path))
    ours = our_outputs(encoder, inputs)

    def difference() -> float:
        theirs = torch_outputs(model, inputs)
        return max(np.abs(theirs[key] - ours[key]).max() / np.abs(ours[key]).max() for key in ours)

    assert difference() < 1e-5
    for name, norm in model.named_modules():
        if isinstance(norm, torch.nn.LayerNorm) and "backward_layers" not in name:
            kept, norm.eps = norm.eps, 1e-5 if norm.eps < 1e-5 else 1e-6
            assert difference() > 5e-4, name
            norm.eps = kept


def test_padding_and_one_modality(tokens: Tokenizer, tmp_path: Path) -> None:
    encoder = make_encoder("combined", tokens)
    inputs = make_inputs(encoder)
    model = medclip_torch.load(write(encoder, tmp_path))
    image, ids, mask, masked = torch_inputs(inputs)
    whole = torch_outputs(model, inputs)
    changed = torch_outputs(model, inputs._replace(token_ids=np.where(mask, ids, 7)))
    for name in ("text_embeddings", "match_logits", "patch_predictions"):
        np.testing.assert_array_equal(changed[name], whole[name])
    with torch.no_grad():
        assert model(pixel_values=image).keys() == {
            "image_features",
            "image_grid",
            "image_embeddings",
        }
        assert model(input_ids=ids).keys() == {"text_tokens", "text_embeddings"}
        short = model(input_ids=ids[:1, : int(mask[0].sum())])["text_embeddings"]
        np.testing.assert_allclose(short, whole["text_embeddings"][:1], atol=TOLERANCE)
        hidden = image.clone()
        hidden[:, :, :8, :8] = 3.0
        masked[:, 0] = True
        np.testing.assert_array_equal(
            model.fill_patches(hidden, masked), model.fill_patches(image, masked)
        )


def test_what_a_model_does_not_have(tokens: Tokenizer, tmp_path: Path) -> None:
    encoder = make_encoder("vit cls", tokens)
    model = medclip_torch.load(write(encoder, tmp_path))
    image, ids, mask, masked = torch_inputs(make_inputs(encoder))
    grid = model(image)["image_grid"]
    for use, part in (
        (lambda: model.match({}, {}, mask), "matching"),
        (lambda: model.fill_tokens(grid, ids, mask), "language_head"),
        (lambda: model.fill_patches(image, masked), "pixel_head"),
        (lambda: model.caption_logits(grid, ids, mask), "caption_decoder"),
        (lambda: model.generate(image, 2, 3, 5), "caption_decoder"),
    ):
        with pytest.raises(ValueError, match=f"this model has no {part}"):
            use()


def test_too_long_a_text(tokens: Tokenizer, tmp_path: Path) -> None:
    encoder = make_encoder("radtex", tokens)
    model = medclip_torch.load(write(encoder, tmp_path))
    image = torch_inputs(make_inputs(encoder))[0]
    with pytest.raises(ValueError, match="too long for a caption decoder of 12 tokens"):
        model.generate(image, 2, -1, 13)


def test_the_files_alone_suffice(tokens: Tokenizer, tmp_path: Path) -> None:
    """Neither a package nor anything of ours is needed."""
    write(make_encoder("vit cls", tokens), tmp_path)
    code = (
        "import sys; from medclip_torch import load; model = load('.'); "
        "print(model.training, sorted(n for n in sys.modules if n.split('.')[0] in "
        "('medclip_jax', 'jax', 'flax', 'transformers', 'torchvision')))"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "False []"


def test_gradients_and_statistics_of_a_training_step(tokens: Tokenizer, tmp_path: Path) -> None:
    """Of all parts, in training mode and without dropout."""
    encoder = without_dropout(make_encoder("combined, coarse grid", tokens))
    inputs = make_inputs(encoder)
    always = np.ones(4, bool)
    batch = {
        "image": inputs.image,
        "token_ids": inputs.token_ids,
        "masked_token_ids": inputs.token_ids,
        "token_mask": inputs.token_mask,
        "patch_is_masked": inputs.patch_is_masked,
        "group_ids": np.arange(8, dtype=np.int32).reshape(4, 2),
        "labels": np.zeros((4, 1), np.float32),
        **dict.fromkeys(("has_image", "has_text", "image_in_view", "text_in_view"), always),
    }
    batch = {key: jnp.asarray(array) for key, array in batch.items()}
    model = encoder.model.clone(num_visible=None)
    statistics = encoder.variables["batch_stats"]

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def our_loss(params: Any) -> Any:
        outputs, changed = model.apply(
            {"params": params, "batch_stats": statistics},
            batch,
            train=True,
            mutable=["batch_stats"],
            rngs={"negatives": jax.random.key(0)},
        )
        outputs["match_logits"] = outputs["match_logits"][:4]  # of the pairs; the rest is drawn
        cosines = outputs["image_embeddings"] @ outputs["text_embeddings"].T
        outputs["logits_per_image"] = cosines / outputs["temperature"]
        return sum(jnp.sum(outputs[key] * weights(outputs[key].shape)) for key in TRAINED), changed

    (loss, changed), gradients = our_loss(encoder.variables["params"])
    theirs = medclip_torch.load(write(encoder, tmp_path)).train()
    image, ids, mask, masked = torch_inputs(inputs)
    outputs = theirs(image, ids, mask)
    text = outputs["text_tokens"]
    outputs["patch_predictions"] = theirs.fill_patches(image, masked, text, mask)
    total = sum((outputs[key] * torch.tensor(weights(outputs[key].shape))).sum() for key in TRAINED)
    total.backward()
    assert total.item() == pytest.approx(float(loss), abs=1e-4)
    expected = torch_state_dict({"params": gradients, **changed})
    for name, parameter in theirs.named_parameters():
        if parameter.grad is None:
            assert "backward_layers" in name and not expected[name].any()
            continue
        np.testing.assert_allclose(parameter.grad, expected[name], atol=1e-4, err_msg=name)
        assert name.endswith("key.bias") or np.abs(expected[name]).max() > 1e-3, name
    for name, buffer in theirs.named_buffers():
        if "num_batches_tracked" not in name:
            np.testing.assert_allclose(buffer, expected[name], atol=1e-5, err_msg=name)


TRAINED = (
    "logits_per_image",
    "match_logits",
    "token_logits",
    "patch_predictions",
    "caption_logits",
)


def weights(shape: tuple[int, ...]) -> np.ndarray:
    """Of a loss that every entry of an output is in."""
    drawn = np.random.default_rng(5).normal(size=tuple(shape))
    return (drawn * np.prod(shape) ** -0.5).astype(np.float32)


def without_dropout(encoder: Encoder) -> Encoder:
    config = encoder.config.copy_and_resolve_references()
    for part in ("text_encoder", "fusion", "caption_decoder"):
        config[part].dropout_rate = 0.0
    return Encoder(config, encoder.tokenizer, encoder.variables)
