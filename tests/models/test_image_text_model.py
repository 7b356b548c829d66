"""The dual encoder: its outputs, gradients, precision, and the same result on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medclip_jax.config import base_config
from medclip_jax.models.bert import Bert
from medclip_jax.models.factory import build_model
from medclip_jax.models.heads import ProjectionHead
from medclip_jax.models.image_text_model import ImageTextModel
from medclip_jax.models.resnet import ResNet
from medclip_jax.models.vit import VisionTransformer

VOCAB_SIZE = 50
SHALLOW_RESNET = ResNet(blocks=(1, 1), bottleneck=False, width=8)
BOTTLENECK_RESNET = ResNet(blocks=(1, 1), bottleneck=True, width=8)
SHALLOW_VIT = VisionTransformer(hidden_size=24, num_layers=1, num_heads=2)


def small_config(image_encoder="resnet18", **changes):
    config = base_config()
    config.image_encoder.update(name=image_encoder, width=8)
    config.text_encoder.update(
        hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, max_length=12
    )
    config.projection.size = 10
    config.objectives.sigmoid_contrastive.weight = 1.0  # so that there is a bias
    config.augmentation.crop_size = 32
    config.update_from_flattened_dict(changes)
    return config


def small_model(image_encoder=SHALLOW_RESNET, dtype=jnp.float32, channels=1, pooling="max"):
    text_encoder = Bert(VOCAB_SIZE, 16, num_layers=1, num_heads=2, intermediate_size=32)
    return ImageTextModel(
        image_encoder=image_encoder.clone(dtype=dtype),
        text_encoder=text_encoder.clone(dtype=dtype),
        image_projection=ProjectionHead(10, dtype=dtype),
        text_projection=ProjectionHead(10, dtype=dtype),
        text_pooling=pooling,
        image_channels=channels,
        learn_temperature=True,
        initial_bias=-10.0,
    )


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    return {
        "image": generator.standard_normal((8, 32, 32, 1)).astype(np.float32),
        "token_ids": generator.integers(0, VOCAB_SIZE, (8, 12)).astype(np.int32),
        "token_mask": np.arange(12) < generator.integers(2, 13, (8, 1)),
        "has_image": np.ones(8, bool),
        "has_text": np.ones(8, bool),
        "group_ids": np.zeros((8, 2), np.int32),
    }


@pytest.mark.parametrize(
    "image_encoder, cells, features",
    [("resnet18", 1, 64), ("resnet50", 1, 256), ("vit_tiny", 4, 192)],
)
def test_names_and_shapes_of_outputs(batch, image_encoder, cells, features):
    model = build_model(small_config(image_encoder, compute_dtype="bfloat16"), VOCAB_SIZE)
    outputs, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), batch))
    assert {name: output.shape for name, output in outputs.items()} == {
        "image_embeddings": (8, 10),
        "image_features": (8, features),
        "image_grid": (8, cells, features),
        "text_embeddings": (8, 10),
        "text_tokens": (8, 12, 16),
        "temperature": (),
        "bias": (),
    }
    assert {output.dtype for output in outputs.values()} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_bfloat16_embeddings_have_unit_length_and_the_same_direction(make_variables, batch):
    full, half = small_model(), small_model(dtype=jnp.bfloat16)
    variables = make_variables(full, batch)
    ours, expected = jax.jit(half.apply)(variables, batch), jax.jit(full.apply)(variables, batch)
    for name in ("image_embeddings", "text_embeddings"):
        np.testing.assert_allclose(np.linalg.norm(ours[name], axis=1), 1, atol=1e-6)
        cosine = np.sum(ours[name] * expected[name], axis=1)
        assert 0.999 < cosine.min() and not np.array_equal(ours[name], expected[name])


def test_methods_equal_the_call(make_variables, batch):
    model = small_model()
    variables = make_variables(model, batch)
    outputs = model.apply(variables, batch)  # a program of the whole would round otherwise
    image = model.apply(variables, batch["image"], method="encode_image")
    text = model.apply(variables, batch["token_ids"], batch["token_mask"], method="encode_text")
    scalars = model.apply(variables, method="scalars")
    together = image | text | scalars
    assert together.keys() == outputs.keys()
    for name, output in outputs.items():
        np.testing.assert_allclose(output, together[name], atol=1e-6)


def test_three_channels_get_the_repeated_grey(make_variables, batch):
    three, one = small_model(channels=3), small_model()
    variables = make_variables(three, batch)
    stem = variables["params"]["image_encoder"]["stem_conv"]
    expected = three.apply(variables, batch)["image_features"]
    stem["kernel"] = stem["kernel"].sum(axis=2, keepdims=True)
    np.testing.assert_allclose(one.apply(variables, batch)["image_features"], expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["max", "mean", "cls"])
def test_embeddings_ignore_padding(make_variables, batch, pooling):
    model = small_model(pooling=pooling)
    variables = make_variables(model, batch)
    padded = batch | {"token_ids": np.where(batch["token_mask"], batch["token_ids"], 3)}
    before, after = model.apply(variables, batch), model.apply(variables, padded)
    assert not np.array_equal(batch["token_ids"], padded["token_ids"])
    np.testing.assert_array_equal(before["text_embeddings"], after["text_embeddings"])


def sigmoid_loss(outputs):
    """The pairwise sigmoid loss of SigLIP, in which each output and scalar has a part."""
    similarities = outputs["image_embeddings"] @ outputs["text_embeddings"].T
    logits = similarities / outputs["temperature"] + outputs["bias"]
    signs = 2 * jnp.eye(len(logits)) - 1
    return -jnp.mean(jnp.sum(jax.nn.log_sigmoid(signs * logits), axis=1))


def make_loss_fn(model, variables, batch):
    def loss_fn(params):
        outputs, updated = model.apply(
            {**variables, "params": params},
            batch,
            train=True,
            rngs={"dropout": jax.random.key(1)},
            mutable=["batch_stats"],
        )
        return sigmoid_loss(outputs), updated

    return loss_fn


@pytest.mark.parametrize("image_encoder", [SHALLOW_RESNET, BOTTLENECK_RESNET, SHALLOW_VIT])
def test_every_parameter_has_a_gradient(make_variables, batch, image_encoder):
    model = small_model(image_encoder)
    variables = make_variables(model, batch)
    loss_fn = make_loss_fn(model, variables, batch)
    gradients, _ = jax.jit(jax.grad(loss_fn, has_aux=True))(variables["params"])
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        largest = np.abs(gradient).max()
        if name.endswith("attention/key/bias"):
            # The softmax over keys does not see a constant added to all of them.
            assert largest < 1e-5, name
        else:
            assert 1e-5 < largest < np.inf, name


@pytest.mark.slow
def test_same_step_on_eight_devices(make_variables, batch):
    """Loss, gradients and the statistics of batch normalisation, which see the global batch."""
    model = small_model(ResNet(blocks=(1,), bottleneck=False, width=8))
    variables = make_variables(model, batch)

    @jax.jit
    def step(params, batch):
        loss_fn = make_loss_fn(model, variables, batch)
        return jax.value_and_grad(loss_fn, has_aux=True)(params)

    devices = jax.devices()
    assert len(devices) == 8
    mesh = Mesh(np.array(devices), ("data",))
    sharded = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    assert len(sharded["image"].sharding.device_set) == 8
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
        step(variables["params"], batch),
        step(variables["params"], sharded),
    )


@pytest.mark.parametrize("learnable", [True, False])
def test_temperature_and_bias(learnable):
    changes = {"temperature.learnable": learnable, "temperature.init": 0.2}
    model = build_model(small_config(**changes), VOCAB_SIZE)
    scalars, variables = model.init_with_output(jax.random.key(0), method="scalars")
    assert float(scalars["temperature"]) == pytest.approx(0.2)
    assert float(scalars["bias"]) == -10
    assert ("log_temperature" in variables["params"]) == learnable
    if learnable:
        variables["params"]["log_temperature"] = jnp.log(0.7)
        scalars = model.apply(variables, method="scalars")
        assert float(scalars["temperature"]) == pytest.approx(0.7)


def test_no_bias_where_no_loss_trains_it():
    config = small_config(**{"objectives.sigmoid_contrastive.weight": 0.0})
    model = build_model(config, VOCAB_SIZE)
    scalars, variables = model.init_with_output(jax.random.key(0), method="scalars")
    assert "bias" not in scalars and "bias" not in variables.get("params", {})


def test_parameter_names(make_variables, batch):
    """Optimiser groups are chosen by these names."""
    model = build_model(small_config("resnet50"), VOCAB_SIZE)
    params = make_variables(model, batch)["params"]
    names = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    }
    assert names >= {
        "image_encoder/stem_conv/kernel",
        "image_encoder/stage1_block0/conv1/kernel",
        "image_encoder/stage1_block0/shortcut_norm/scale",
        "text_encoder/embeddings/word_embeddings/embedding",
        "text_encoder/embeddings/norm/scale",
        "text_encoder/layer_0/attention/query/kernel",
        "text_encoder/layer_1/mlp/hidden/kernel",
        "image_projection/hidden/kernel",
        "text_projection/output/bias",
        "log_temperature",
        "bias",
    }
