"""Augmentation against OpenCV, against torchvision's formulas in NumPy, and on eight devices."""

import dataclasses
import functools

import cv2
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from medclip_jax.data import augment as augmentation_module
from medclip_jax.data.augment import Augmentation, augment, draw, prepare, sampling_matrices, warp
from medclip_jax.errors import UserError

NONE = Augmentation(
    crop_size=96,
    crop_area=(1.0, 1.0),
    rotation_degrees=0.0,
    translation=0.0,
    scale=(1.0, 1.0),
    brightness=(1.0, 1.0),
    contrast=(1.0, 1.0),
    blur_sigma=(0.0, 0.0),
    mean=0.0,
    std=1.0 / 255.0,
)


def make_images(size: int, count: int = 4) -> np.ndarray:
    """Smooth random textures: a grey level changes little within a pixel."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        noise = cv2.GaussianBlur(rng.normal(size=(size, size)), (0, 0), size / 30)
        images.append(cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX))
    return np.stack(images).round().astype(np.uint8)


def in_grey_levels(views) -> np.ndarray:
    """Of views that were made with the mean and the deviation of NONE."""
    return np.asarray(views)[..., 0]


def test_without_any_change_the_view_is_the_image():
    images = make_images(96)
    views = augment(jnp.asarray(images), jax.random.key(0), NONE)
    assert views.shape == (4, 96, 96, 1) and views.dtype == jnp.float32
    np.testing.assert_allclose(in_grey_levels(views), images, atol=1e-3)


def test_without_any_change_a_larger_image_is_resized():
    images = make_images(128)
    views = in_grey_levels(augment(jnp.asarray(images), jax.random.key(0), NONE))
    resized = [cv2.resize(image, (96, 96), interpolation=cv2.INTER_LINEAR) for image in images]
    np.testing.assert_allclose(views, np.stack(resized), atol=1.0)


def test_pixels_are_normalized():
    images = np.full((1, 96, 96), 51, np.uint8)
    config = dataclasses.replace(NONE, mean=0.1, std=0.2)
    for views in (
        augment(jnp.asarray(images), jax.random.key(0), config),
        prepare(jnp.asarray(images), config),
    ):
        np.testing.assert_allclose(views, (0.2 - 0.1) / 0.2, rtol=1e-5)


@pytest.mark.parametrize("flip_probability", [0.0, 1.0])
def test_warp_equals_opencv_with_the_same_matrix(flip_probability):
    images = make_images(128)
    config = Augmentation(crop_size=96, flip_probability=flip_probability)
    matrices = sampling_matrices(draw(jax.random.key(3), 4, config), 128, 96)
    views = np.asarray(warp(jnp.asarray(images, jnp.float32), matrices, 96))
    for view, image, matrix in zip(views, images, np.asarray(matrices, np.float64), strict=True):
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        expected = cv2.warpAffine(image.astype(np.float32), matrix, (96, 96), flags=flags)
        x, y = np.meshgrid(np.arange(96), np.arange(96))
        source = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]))
        interior = np.all((source > 0.1) & (source < 126.9), axis=0)
        outside = np.any((source < -1.1) | (source > 128.1), axis=0)
        assert interior.mean() > 0.5
        assert np.abs(view - expected)[interior].max() < 1.0
        assert not view[outside].any()


def test_matrix_is_crop_then_flip_then_affine_about_the_centre():
    """Follows one point of the image forward through the three steps, as the paper orders them."""
    config = Augmentation(crop_size=96, flip_probability=0.5)
    draws = draw(jax.random.key(5), 16, config)
    assert 0 < int(draws.flip.sum()) < 16
    matrices = np.asarray(sampling_matrices(draws, 128, 96), np.float64)
    for i, matrix in enumerate(matrices):
        one = jax.tree.map(lambda values, i=i: np.asarray(values[i], np.float64), draws)
        source = np.array([50.0, 70.0])
        inside_crop = ((source + 0.5) / 128 - one.crop_corner) / one.crop_side - 0.5
        if one.flip:
            inside_crop[0] = -inside_crop[0]
        cosine, sine = np.cos(one.rotation), np.sin(one.rotation)
        rotated = np.array([[cosine, sine], [-sine, cosine]]) @ inside_crop
        view = (one.scale * rotated + one.translation + 0.5) * 96 - 0.5
        np.testing.assert_allclose(matrix @ [*view, 1.0], source, atol=1e-3)


def test_brightness_and_contrast_equal_torchvision():
    images = np.random.default_rng(1).uniform(0, 255, size=(3, 20, 20)).astype(np.float32)
    factors = np.array([0.6, 1.0, 1.4], np.float32)
    bright = augmentation_module.adjust_brightness(jnp.asarray(images), jnp.asarray(factors))
    expected = np.clip(images * factors[:, None, None], 0, 255)
    assert (expected == 255).any()
    np.testing.assert_allclose(bright, expected, atol=1e-3)
    contrast = augmentation_module.adjust_contrast(bright, jnp.asarray(factors))
    for view, image, factor in zip(np.asarray(contrast), expected, factors, strict=True):
        blend = factor * image + (1 - factor) * image.mean()
        np.testing.assert_allclose(view, np.clip(blend, 0, 255), atol=1e-3)


@pytest.mark.parametrize("size", [96, 101])
def test_blur_equals_opencv(size):
    images = make_images(size, count=3).astype(np.float32)
    sigmas = np.array([0.1, 1.0, 2.9], np.float32)
    views = augmentation_module.gaussian_blur(jnp.asarray(images), jnp.asarray(sigmas), radius=9)
    for view, image, sigma in zip(np.asarray(views), images, sigmas, strict=True):
        expected = cv2.GaussianBlur(
            image, (19, 19), float(sigma), borderType=cv2.BORDER_REFLECT_101
        )
        np.testing.assert_allclose(view, expected, atol=1e-2)
    np.testing.assert_allclose(views[0], images[0], atol=1e-3)
    assert np.abs(np.asarray(views[2]) - images[2]).max() > 1.0


def test_blur_grows_with_the_size_of_the_view():
    """The same picture at twice the size is blurred by twice the pixels."""
    config = dataclasses.replace(NONE, blur_sigma=(3.0, 3.0))
    for size in (112, 224):
        image = np.zeros((1, size, size), np.uint8)
        image[0, size // 2, size // 2] = 255
        sized = dataclasses.replace(config, crop_size=size)
        view = in_grey_levels(augment(jnp.asarray(image), jax.random.key(0), sized))[0]
        profile = view.sum(axis=0)
        offsets = np.arange(size) - size // 2
        sigma = np.sqrt((profile * offsets**2).sum() / profile.sum())
        assert sigma == pytest.approx(3.0 * size / 224, rel=0.03)


def test_prepare_shrinks_like_pillow():
    image_module = pytest.importorskip("PIL.Image")
    images = make_images(200)
    views = in_grey_levels(prepare(jnp.asarray(images), NONE))
    for view, image in zip(views, images, strict=True):
        pillow = image_module.fromarray(image).resize((96, 96), image_module.Resampling.BILINEAR)
        assert np.abs(view - np.asarray(pillow)).max() <= 1.0


def test_a_large_image_is_filtered_before_it_is_sampled():
    """A pattern finer than a pixel of the view has to vanish into grey, not into stripes."""
    image = np.zeros((1, 480, 480), np.uint8)
    image[:, :, ::2] = 255
    views = in_grey_levels(augment(jnp.asarray(image), jax.random.key(0), NONE))
    assert np.abs(views - 127.5).max() < 8.0


def test_draws_keep_their_ranges_and_fill_them():
    config = Augmentation(flip_probability=0.3)
    draws = jax.tree.map(np.asarray, draw(jax.random.key(1), 1000, config))
    angle = np.deg2rad(20.0)
    for values, low, high in (
        (draws.crop_side**2, 0.6, 1.0),
        (draws.rotation, -angle, angle),
        (draws.translation, -0.1, 0.1),
        (draws.scale, 0.95, 1.05),
        (draws.brightness, 0.6, 1.4),
        (draws.contrast, 0.6, 1.4),
        (draws.blur_sigma, 0.1, 3.0),
    ):
        width = high - low
        assert low - 1e-6 <= values.min() < low + 0.02 * width
        assert high - 0.02 * width < values.max() <= high + 1e-6
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.05 * width)
    right_edge = draws.crop_corner + draws.crop_side[:, None]
    assert draws.crop_corner.min() >= 0.0 and right_edge.max() <= 1.0 + 1e-6
    assert draws.flip.mean() == pytest.approx(0.3, abs=0.05)
    columns = np.stack([draws.crop_side, draws.rotation, draws.scale, draws.blur_sigma])
    assert np.abs(np.corrcoef(columns) - np.eye(4)).max() < 0.12


def test_flip_is_off_by_default():
    assert not draw(jax.random.key(0), 1000, Augmentation()).flip.any()


def test_views_follow_from_image_key_and_row_alone():
    images = jnp.asarray(make_images(128, count=8))
    config = Augmentation(crop_size=96)
    run = jax.jit(functools.partial(augment, augmentation=config))
    views = run(images, jax.random.key(0))
    np.testing.assert_array_equal(run(images, jax.random.key(0)), views)
    np.testing.assert_allclose(run(images[:3], jax.random.key(0)), views[:3], atol=1e-5)
    assert np.abs(run(images, jax.random.key(1)) - views).max() > 0.1
    same = run(jnp.stack([images[0]] * 8), jax.random.key(0))
    assert np.abs(same[1] - same[0]).max() > 0.1


def test_eight_devices_give_the_same_as_one():
    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    images = make_images(128, count=16)
    config = Augmentation(crop_size=96)
    run = jax.jit(functools.partial(augment, augmentation=config))
    sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    views = run(sharded, jax.random.key(7))
    assert len(views.sharding.device_set) == 8
    assert views.addressable_shards[0].data.shape[0] == 2
    np.testing.assert_allclose(views, run(jnp.asarray(images), jax.random.key(7)), atol=1e-5)
    program = run.lower(sharded, jax.random.key(7)).compile().as_text()
    assert "all-gather" not in program


def test_config_gives_the_ranges():
    config = ml_collections.ConfigDict(
        {"crop_size": 64, "crop_area": (0.5, 0.9), "flip_probability": 0.5, "std": 0.3}
    )
    augmentation = Augmentation.from_config(config)
    assert augmentation == Augmentation(
        crop_size=64, crop_area=(0.5, 0.9), flip_probability=0.5, std=0.3
    )
    assert augmentation.brightness == (0.6, 1.4)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rotation", 10.0, "has no key 'rotation'"),
        ("crop_area", (0.6, 1.2), "must lie within"),
        ("scale", (1.05, 0.95), "must lie within"),
        ("contrast", (0.6, 1.0, 1.4), "a low and a high"),
        ("blur_sigma", 3.0, "a low and a high"),
        ("flip_probability", 1.5, "must lie within"),
        ("std", 0.0, "must lie within"),
    ],
)
def test_a_wrong_config_is_one_clear_line(key, value, message):
    with pytest.raises(UserError, match=message) as error:
        Augmentation.from_config({key: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("function", [lambda x: augment(x, jax.random.key(0), NONE), None])
def test_images_that_are_not_8_bit_squares_are_refused(function):
    function = function or (lambda images: prepare(images, NONE))
    for images in (jnp.zeros((2, 96, 96)), jnp.zeros((2, 96, 80), jnp.uint8)):
        with pytest.raises(ValueError, match="images must be uint8"):
            function(images)
