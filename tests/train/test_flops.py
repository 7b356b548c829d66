"""The operations of a step against published figures, a formula and XLA's count; peaks; MFU."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from medclip_jax import objectives
from medclip_jax.config import base_config
from medclip_jax.models.bert import Bert
from medclip_jax.models.factory import IMAGE_ENCODERS, build_model
from medclip_jax.train.flops import count_products, mfu, peak_flops, train_step_flops
from medclip_jax.train.masks import BatchMasks
from medclip_jax.train.state import init_variables

VOCAB_SIZE = 200


def encoder_products(name):
    """The operations of an image of 224 pixels: of the forward pass, and of it and the backward."""
    model = IMAGE_ENCODERS[name](base_config().image_encoder, 224, jnp.float32)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    statistics = {key: value for key, value in variables.items() if key != "params"}

    def features_of(params, statistics, image):
        variables = {"params": params} | statistics
        return model.apply(variables, image, train=False).features.sum()

    inputs = variables["params"], statistics, image
    forward = count_products(jax.make_jaxpr(features_of)(*inputs).jaxpr)
    both = count_products(jax.make_jaxpr(jax.value_and_grad(features_of))(*inputs).jaxpr)
    return forward, both


@pytest.mark.parametrize(
    ("name", "billions", "classifier", "first"),
    [
        # torchvision's figures of whole classifiers with 1000 classes; the first layer, whose
        # input needs no gradient.
        ("resnet18", 1.814, 512, 112 * 112 * 7 * 7 * 3 * 64),
        ("resnet50", 4.089, 2048, 112 * 112 * 7 * 7 * 3 * 64),
        ("vit_base", 17.564, 768, 14 * 14 * 16 * 16 * 3 * 768),
    ],
)
def test_encoders_have_the_published_number_of_multiplications(name, billions, classifier, first):
    forward, both = encoder_products(name)
    assert round(forward / 2e9 + classifier * 1000 / 1e9, 3) == pytest.approx(billions, abs=5e-4)
    assert both == 3 * forward - 2 * first


def test_bert_follows_palms_formula():
    """6 N operations a token and 12 a layer, head, query and key channel (appendix B)."""
    layers, hidden, length, rows = 3, 64, 24, 2
    model = Bert(11, hidden, layers, 4, 4 * hidden, length, dropout_rate=0.1)
    ids = np.zeros((rows, length), int)
    inputs = ids, ids == 0
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, deterministic=True))

    def total(params, *inputs):
        keys = {"dropout": jax.random.key(0)}
        return jnp.sum(jnp.sin(model.apply(params, *inputs, deterministic=False, rngs=keys)))

    counted = count_products(jax.make_jaxpr(jax.value_and_grad(total))(params, *inputs).jaxpr)
    matrices = layers * 12 * hidden**2
    per_token = 6 * matrices + 12 * layers * hidden * length
    assert counted == rows * length * per_token


def wide_config(name):
    """A tiny config with a ViT and layers that are wide enough for products to be the most."""
    config = tiny.tiny_config(name)
    sizes = {"hidden_size": 256, "num_heads": 4}
    config.batch_size = 4
    config.image_encoder.update(sizes | {"name": "vit", "pooling": "mean"})
    config.text_encoder.update(sizes | {"intermediate_size": 1024})
    config.fusion.update(sizes)
    config.caption_decoder.update(sizes | {"intermediate_size": 1024})
    return config


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return tiny.tokenizer(tmp_path_factory.mktemp("tokens"))


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_every_system_is_what_xla_counts_and_no_more(name, tokens):
    """XLA's count of the program, before anything is optimised, has what works on single elements.

    A token's products are 256 and more multiplications a number; norms, GELU, softmax and dropout
    are some ten operations a number: some percent, and only ever more. (A ResNet's images would
    have to be large: XLA leaves out the zeros at their border.)
    """
    config = wide_config(name)
    model, masks = build_model(config, VOCAB_SIZE), BatchMasks.from_config(config, tokens)
    batch = tiny.example(config, masks)
    batch = {key: np.repeat(value, config.batch_size // 2, 0) for key, value in batch.items()}
    variables = jax.eval_shape(lambda: init_variables(model, 0, batch))

    def loss(params, batch):
        keys = {"dropout": jax.random.key(0), "negatives": jax.random.key(1)}
        outputs = model.apply({"params": params}, batch, train=True, rngs=keys)
        return objectives.total_loss(outputs, batch, config.objectives)[0]

    lowered = jax.jit(jax.value_and_grad(loss)).lower(variables["params"], batch)
    counted = train_step_flops(config, VOCAB_SIZE)
    assert counted < lowered.cost_analysis()["flops"] < 1.04 * counted


def test_what_is_computed_twice_counts_once():
    config = wide_config("combined")
    expected = train_step_flops(config, VOCAB_SIZE)
    config.image_encoder.remat = config.text_encoder.remat = config.fusion.remat = True
    config.objectives.contrastive.tile_size = 2
    config.scan_layers, config.microbatch_size = True, 1
    assert train_step_flops(config, VOCAB_SIZE) == expected


def test_frozen_parts_have_no_backward_pass():
    config = wide_config("convirt")
    whole = train_step_flops(config, VOCAB_SIZE)
    config.optimizer.frozen = ("^text_encoder/",)
    frozen = train_step_flops(config, VOCAB_SIZE)
    rows, length = config.batch_size, config.text_encoder.max_length
    layer = 12 * 256**2 + 2 * 256 * length
    # Two gradients of each product in the one layer, and that of the projection's input.
    assert whole - frozen == 2 * 2 * layer * rows * length + 2 * rows * 256**2


def test_loops_count_by_their_rounds_and_unused_results_not():
    x = jnp.ones((5, 5))

    def function(x):
        unused = x @ x
        x, _ = jax.lax.scan(lambda x, _: (jax.checkpoint(jax.jit(jnp.dot))(x, x), None), x, None, 7)
        return x, unused.shape[0]

    assert count_products(jax.make_jaxpr(function)(x).jaxpr) == 7 * 2 * 5**3


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_convolutions_gradients_are_as_much_as_itself(stride):
    x, kernel = jnp.ones((2, 12, 12, 4)), jnp.ones((3, 3, 4, 8))

    def total(x, kernel):
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jnp.sum(jnp.sin(y))

    forward = 2 * 2 * (12 // stride) ** 2 * 8 * 9 * 4
    assert count_products(jax.make_jaxpr(total)(x, kernel).jaxpr) == forward
    gradients = jax.make_jaxpr(jax.grad(total, argnums=(0, 1)))(x, kernel)
    assert count_products(gradients.jaxpr) == 3 * forward


@pytest.mark.parametrize(
    ("kind", "bfloat16", "float32"),
    [
        ("TPU v4", 275, 275),
        ("TPU v5 lite", 197, 197),
        ("TPU v5e", 197, 197),
        ("TPU v5p", 459, 459),
        ("TPU v5", 459, 459),
        ("TPU v6 lite", 918, 918),
        ("NVIDIA A100-SXM4-40GB", 312, 156),
        ("NVIDIA A100-PCIE-40GB", 312, 156),
        ("NVIDIA A100 80GB PCIe", 312, 156),
        ("NVIDIA H100 80GB HBM3", 989.5, 494.5),
        ("NVIDIA H100 PCIe", 756.5, 378),
        ("NVIDIA H200", 989.5, 494.5),
        ("NVIDIA L4", 121, 60),
        ("NVIDIA L40S", 362.05, 183),
        ("NVIDIA RTX A6000", 154.8, 77.4),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None, None),
        ("cpu", None, None),
    ],
)
def test_peaks(kind, bfloat16, float32):
    device = types.SimpleNamespace(device_kind=kind)
    for dtype, peak in ((jnp.bfloat16, bfloat16), ("float32", float32)):
        assert peak_flops(device, dtype) == (None if peak is None else peak * 1e12)
    assert peak_flops(device, jnp.float64) is None


def test_mfu():
    assert mfu(6e12, seconds=0.5, devices=4, peak=12e12) == pytest.approx(0.25)
