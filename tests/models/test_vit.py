"""The vision transformer against timm and Hugging Face, and its options."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.config import base_config
from medclip_jax.convert.from_pytorch import vit_from_huggingface, vit_from_timm
from medclip_jax.models.factory import IMAGE_ENCODERS
from medclip_jax.models.vit import VisionTransformer

SMALL = VisionTransformer(hidden_size=24, num_layers=2, num_heads=3)
BASE = VisionTransformer(hidden_size=768, num_layers=12, num_heads=12)
TIMM_POOLINGS = {"cls": "token", "mean": "avg", "max": "max"}


def timm_model(timm, **options):
    return timm.models.VisionTransformer(
        img_size=(48, 32),
        embed_dim=SMALL.hidden_size,
        depth=SMALL.num_layers,
        num_heads=SMALL.num_heads,
        num_classes=0,
        fc_norm=False,
        **options,
    ).eval()


@pytest.mark.parametrize("pooling", TIMM_POOLINGS)
def test_equals_timm(timm, randomize, random_image, pooling):
    import torch

    reference = timm_model(timm, global_pool=TIMM_POOLINGS[pooling])
    params = vit_from_timm(randomize(reference), channels=3)
    image = random_image(2, 48, 32, 3)
    with torch.no_grad():
        tokens = reference.forward_features(torch.from_numpy(image).permute(0, 3, 1, 2))
        features = reference.forward_head(tokens)
    model = dataclasses.replace(SMALL, pooling=pooling)
    ours = model.apply({"params": params}, image, train=False)
    np.testing.assert_allclose(ours.grid, tokens[:, 1:].reshape(2, 3, 2, 24), atol=1e-5)
    np.testing.assert_allclose(ours.features, features, atol=1e-5)


def test_one_channel_equals_repeated_grey(timm, randomize, random_image):
    state_dict = randomize(timm_model(timm))
    image = random_image(2, 48, 32, 1)
    one = SMALL.apply({"params": vit_from_timm(state_dict, channels=1)}, image, train=False)
    three = SMALL.apply(
        {"params": vit_from_timm(state_dict, channels=3)}, image.repeat(3, axis=-1), train=False
    )
    np.testing.assert_allclose(one.features, three.features, atol=1e-5)


def saved_arrays(reference, directory):
    """The arrays of a Hugging Face model under the names that they have in a file."""
    safetensors = pytest.importorskip("safetensors.numpy")
    reference.save_pretrained(directory)
    return safetensors.load_file(directory / "model.safetensors")


def test_equals_huggingface(transformers, randomize, random_image, tmp_path):
    torch = pytest.importorskip("torch")
    config = transformers.ViTConfig(
        hidden_size=SMALL.hidden_size,
        num_hidden_layers=SMALL.num_layers,
        num_attention_heads=SMALL.num_heads,
        intermediate_size=4 * SMALL.hidden_size,
        image_size=32,
    )
    reference = transformers.ViTModel(config).eval()
    randomize(reference)
    state_dict = saved_arrays(reference, tmp_path)
    image = random_image(2, 32, 32, 3)
    with torch.no_grad():
        expected = reference(torch.from_numpy(image).permute(0, 3, 1, 2)).last_hidden_state
    model = dataclasses.replace(SMALL, epsilon=1e-12)
    params = vit_from_huggingface(state_dict, channels=3)
    ours = model.apply({"params": params}, image, train=False)
    np.testing.assert_allclose(ours.features, expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(ours.grid.reshape(2, 4, 24), expected[:, 1:], atol=1e-5)


def test_number_of_parameters_of_vit_base(count_parameters):
    assert count_parameters(BASE, jnp.zeros((1, 224, 224, 3)), train=False) == 85_798_656


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_sizes_are_timms(timm, count_parameters, name):
    import torch

    with torch.device("meta"):
        reference = timm.create_model(f"vit_{name}_patch16_224", num_classes=0)
    expected = sum(parameter.numel() for parameter in reference.parameters())
    model = IMAGE_ENCODERS[f"vit_{name}"](base_config().image_encoder, 224, jnp.float32)
    assert count_parameters(model, jnp.zeros((1, 224, 224, 3)), train=False) == expected
    assert model.num_heads == reference.blocks[0].attn.num_heads


def test_remat_changes_nothing(make_variables, count_remats, random_image):
    image = random_image(2, 32, 32, 1)
    remat = dataclasses.replace(SMALL, remat=True)
    params = make_variables(SMALL, image, train=False)["params"]

    def loss(params, model):
        return (model.apply({"params": params}, image, train=True).grid ** 3).mean()

    assert count_remats(lambda p: loss(p, SMALL), params) == 0
    assert count_remats(lambda p: loss(p, remat), params) == SMALL.num_layers
    evaluate = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        evaluate(params, SMALL),
        evaluate(params, remat),
    )


def test_bfloat16_is_close_and_keeps_parameters_in_float32(make_variables, random_image):
    image = random_image(2, 32, 32, 1)
    half = dataclasses.replace(SMALL, dtype=jnp.bfloat16)
    variables = make_variables(half, image, train=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    ours = half.apply(variables, image, train=False).grid
    assert ours.dtype == jnp.bfloat16
    expected = SMALL.apply(variables, image, train=False).grid
    assert 0 < np.abs(ours.astype(jnp.float32) - expected).mean() < 0.02


def test_initialisation_follows_timm(random_image):
    model = dataclasses.replace(SMALL, num_layers=0)
    params = model.init(jax.random.key(0), random_image(1, 128, 128, 1), train=False)["params"]
    positions = params["position_embedding"]
    assert positions.shape == (1, 65, 24)
    assert float(positions.std()) == pytest.approx(0.88 * 0.02, rel=0.05)
    assert 0 < float(jnp.abs(params["cls_token"]).max()) < 1e-5


ROWS, COLUMNS, VISIBLE = 3, 4, 5


@pytest.fixture
def masked_images(random_image):
    """Images of 3 x 4 patches, and a mask that leaves 5 of them visible."""
    mask = np.tile(np.arange(ROWS * COLUMNS) >= VISIBLE, (3, 1))
    mask = np.random.default_rng(0).permuted(mask, axis=1)
    return random_image(3, 16 * ROWS, 16 * COLUMNS, 1), mask


def visible_and_masked(encoding, mask):
    tokens = np.asarray(encoding.grid).reshape(*mask.shape, -1)
    return tokens[~mask], tokens[mask]


def test_visible_patches_equal_huggingfaces_mae(transformers, randomize, random_image, tmp_path):
    torch = pytest.importorskip("torch")
    config = transformers.ViTMAEConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=64,
        mask_ratio=0.75,
    )
    reference = transformers.ViTMAEModel(config).eval()
    randomize(reference)
    params = vit_from_huggingface(saved_arrays(reference, tmp_path), channels=3)
    image = random_image(2, 64, 64, 3)
    noise = torch.from_numpy(np.random.default_rng(0).random((2, 16)))
    with torch.no_grad():
        outputs = reference(torch.from_numpy(image).permute(0, 3, 1, 2), noise=noise)
    mask = outputs.mask.numpy() == 1
    model = dataclasses.replace(SMALL, epsilon=1e-12)
    ours = model.apply({"params": params}, image, False, mask, num_visible=4)
    np.testing.assert_allclose(ours.features, outputs.last_hidden_state[:, 0], atol=1e-5)
    grid = np.asarray(ours.grid).reshape(2, 16, 24)
    for row in range(2):
        kept = np.argsort(noise[row].numpy())[:4]  # the order of the reference is that of its noise
        np.testing.assert_allclose(grid[row, kept], outputs.last_hidden_state[row, 1:], atol=1e-5)


@pytest.mark.parametrize("pooling", TIMM_POOLINGS)
def test_visible_patches_alone_equal_all_patches_with_a_mask(
    make_variables, masked_images, pooling
):
    image, mask = masked_images
    model = dataclasses.replace(SMALL, pooling=pooling)
    variables = make_variables(model, image, train=False)
    apply = jax.jit(model.apply, static_argnums=(2, 4))
    attended = apply(variables, image, False, mask)
    gathered = apply(variables, image, False, mask, VISIBLE)
    assert gathered.grid.shape == (3, ROWS, COLUMNS, 24)
    np.testing.assert_allclose(gathered.grid, attended.grid, atol=1e-5)
    np.testing.assert_allclose(gathered.features, attended.features, atol=1e-5)
    for encoding in (attended, gathered):
        visible, masked = visible_and_masked(encoding, mask)
        assert np.abs(visible).max() > 1 and not masked.any()
    if pooling != "cls":
        tokens = np.asarray(attended.grid).reshape(3, -1, 24)
        pool = np.mean if pooling == "mean" else np.max
        expected = [pool(row[~hidden], axis=0) for row, hidden in zip(tokens, mask, strict=True)]
        np.testing.assert_allclose(attended.features, expected, atol=1e-6)
    unmasked = apply(variables, image, False)
    assert np.abs(unmasked.features - attended.features).max() > 0.05


@pytest.mark.parametrize("num_visible", [None, VISIBLE])
def test_masked_pixels_do_not_leak(make_variables, masked_images, num_visible):
    image, mask = masked_images
    pixels = mask.reshape(3, ROWS, COLUMNS).repeat(16, axis=1).repeat(16, axis=2)[..., None]
    variables = make_variables(SMALL, image, train=False)
    encode = jax.jit(lambda image: SMALL.apply(variables, image, True, mask, num_visible))
    before, after = encode(image), encode(np.where(pixels, 100 * image + 7, image))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    changed = encode(np.where(pixels, image, image + 1))
    assert np.abs(changed.features - before.features).max() > 0.05
    gradient = jax.grad(lambda image: encode(image).grid.sum() + encode(image).features.sum())(
        image
    )
    assert not np.asarray(gradient)[np.broadcast_to(pixels, gradient.shape)].any()


def test_the_layers_run_on_visible_patches_alone(make_variables, masked_images):
    """The work of the layers shrinks with the number of visible patches."""
    image, mask = masked_images
    variables = make_variables(SMALL, image, train=False)

    def count_flops(num_visible):
        run = jax.jit(lambda image: SMALL.apply(variables, image, False, mask, num_visible).grid)
        return run.lower(image).compile().cost_analysis()["flops"]

    without_layers = dataclasses.replace(SMALL, num_layers=0)
    fixed = jax.jit(lambda image: without_layers.apply(variables, image, False).grid)
    fixed_flops = fixed.lower(image).compile().cost_analysis()["flops"]
    share = (count_flops(VISIBLE) - fixed_flops) / (count_flops(None) - fixed_flops)
    assert share < 1.1 * (1 + VISIBLE) / (1 + ROWS * COLUMNS)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_every_parameter_has_a_gradient_with_a_mask(make_variables, masked_images, pooling):
    image, mask = masked_images
    model = dataclasses.replace(SMALL, pooling=pooling, remat=True)
    params = make_variables(model, image, train=False)["params"]

    def loss(params):
        encoding = model.apply({"params": params}, image, True, mask, VISIBLE)
        return (encoding.grid**3).sum() + (encoding.features**3).sum()

    gradients = jax.jit(jax.grad(loss))(params)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # The softmax over keys does not see a constant added to all of them.
        assert name.endswith("key/bias") or 1e-3 < np.abs(gradient).max() < np.inf, name


def test_a_number_of_visible_patches_needs_a_mask(random_image):
    with pytest.raises(ValueError, match="give the mask"):
        SMALL.init(jax.random.key(0), random_image(1, 32, 32, 1), False, num_visible=2)
