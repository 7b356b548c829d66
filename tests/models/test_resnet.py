"""ResNet against torchvision: outputs, statistics, gradients, and the options of our own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.convert.from_pytorch import resnet_from_torchvision
from medclip_jax.models.resnet import ResNet

RESNET18 = ResNet(blocks=(2, 2, 2, 2), bottleneck=False)
RESNET50 = ResNet(blocks=(3, 4, 6, 3), bottleneck=True)
CASES = [("resnet18", RESNET18, 11_176_512), ("resnet50", RESNET50, 23_508_032)]


def torch_outputs(reference, image):
    """(features, grid) of a torchvision ResNet for NHWC images, as NHWC tensors."""
    import torch

    x = torch.from_numpy(image).permute(0, 3, 1, 2)
    x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
    x = reference.layer4(reference.layer3(reference.layer2(reference.layer1(x))))
    return reference.avgpool(x).flatten(1), x.permute(0, 2, 3, 1)


@pytest.mark.parametrize("name, model, num_parameters", CASES)
def test_equals_torchvision_in_evaluation(
    torchvision, randomize, random_image, name, model, num_parameters
):
    reference = getattr(torchvision.models, name)().eval()
    variables = resnet_from_torchvision(randomize(reference), channels=3)
    # A size that no stride divides: the padding must be right on every side.
    image = random_image(2, 70, 59, 3)
    features, grid = torch_outputs(reference, image)
    ours = jax.jit(lambda: model.apply(variables, image, train=False))()
    assert ours.grid.shape == (2, 3, 2, features.shape[1])
    np.testing.assert_allclose(ours.grid, grid.detach(), atol=2e-5, rtol=0)
    np.testing.assert_allclose(ours.features, features.detach(), atol=2e-5, rtol=0)
    assert np.abs(features.detach().numpy()).max() > 0.5


@pytest.mark.parametrize("name, model, num_parameters", CASES)
def test_number_of_parameters(torchvision, count_parameters, name, model, num_parameters):
    reference = getattr(torchvision.models, name)()
    reference.fc = None
    assert sum(parameter.numel() for parameter in reference.parameters()) == num_parameters
    image = jnp.zeros((1, 64, 64, 3))
    assert count_parameters(model, image, train=False) == num_parameters


def test_one_channel_equals_repeated_grey(torchvision, randomize, random_image):
    state_dict = randomize(torchvision.models.resnet18())
    image = random_image(2, 64, 64, 1)
    one = RESNET18.apply(resnet_from_torchvision(state_dict, channels=1), image, train=False)
    three = RESNET18.apply(
        resnet_from_torchvision(state_dict, channels=3), image.repeat(3, axis=-1), train=False
    )
    np.testing.assert_allclose(one.features, three.features, atol=1e-5)


def test_equals_torchvision_in_training(torchvision, randomize, random_image):
    """Output, running statistics (torch's take the unbiased variance) and all gradients."""
    import torch

    reference = torchvision.models.resnet18().train()
    variables = resnet_from_torchvision(randomize(reference), channels=3)
    image = random_image(4, 64, 64, 3)
    direction = random_image(4, 512, seed=1)

    features, _ = torch_outputs(reference, image)
    torch_loss = (features * torch.from_numpy(direction)).mean()
    torch_loss.backward()

    @jax.jit
    def loss_fn(params):
        encoding, updated = RESNET18.apply(
            {**variables, "params": params}, image, train=True, mutable=["batch_stats"]
        )
        return (encoding.features * direction).mean(), (encoding.features, updated)

    (_, (ours, updated)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])
    np.testing.assert_allclose(ours, features.detach(), atol=2e-5, rtol=0)

    state_after = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    expected = resnet_from_torchvision(state_after, channels=3)["batch_stats"]
    assert jax.tree.structure(updated["batch_stats"]) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), updated["batch_stats"], expected
    )

    torch_gradients = {
        name: parameter.grad.numpy()
        for name, parameter in reference.named_parameters()
        if parameter.grad is not None
    }
    expected = resnet_from_torchvision(torch_gradients, channels=3)["params"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(b).max()),
        gradients,
        expected,
    )


def test_width_scales_every_layer(make_variables, random_image):
    model = dataclasses.replace(RESNET50, width=16)
    params = make_variables(model, random_image(1, 64, 64, 1), train=False)["params"]
    assert params["stem_conv"]["kernel"].shape == (7, 7, 1, 16)
    assert params["stage4_block2"]["conv2"]["kernel"].shape == (3, 3, 128, 128)
    assert params["stage4_block2"]["conv3"]["kernel"].shape == (1, 1, 128, 512)


def test_pools_by_maximum(make_variables, random_image):
    model = ResNet(blocks=(1, 1), bottleneck=False, width=8, pooling="max")
    image = random_image(2, 24, 24, 1)
    encoding = model.apply(make_variables(model, image, train=False), image, train=False)
    assert encoding.grid.shape == (2, 3, 3, 16)
    np.testing.assert_array_equal(encoding.features, encoding.grid.max(axis=(1, 2)))


def test_initialisation_has_the_original_variance(random_image):
    model = ResNet(blocks=(1,), bottleneck=False)
    params = model.init(jax.random.key(0), random_image(1, 32, 32, 1), train=False)["params"]
    kernel = params["stage1_block0"]["conv1"]["kernel"]
    assert float(kernel.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert float(params["stage1_block0"]["norm2"]["scale"].min()) == 1.0


def test_remat_changes_nothing(make_variables, count_remats, random_image):
    model = ResNet(blocks=(1, 1), bottleneck=False, width=8)
    remat = dataclasses.replace(model, remat=True)
    image = random_image(4, 32, 32, 1)
    variables = make_variables(model, image, train=False)

    def loss_and_statistics(params, model):
        encoding, updated = model.apply(
            {**variables, "params": params}, image, train=True, mutable=["batch_stats"]
        )
        return (encoding.features**2).mean(), updated

    def evaluate(model):
        return jax.jit(jax.value_and_grad(loss_and_statistics, has_aux=True), static_argnums=1)(
            variables["params"], model
        )

    num_blocks = 2
    assert count_remats(lambda p: loss_and_statistics(p, model), variables["params"]) == 0
    assert count_remats(lambda p: loss_and_statistics(p, remat), variables["params"]) == num_blocks
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), evaluate(model), evaluate(remat)
    )


def test_bfloat16_keeps_parameters_and_statistics_in_float32(make_variables, random_image):
    model = ResNet(blocks=(1, 1), bottleneck=True, width=8, dtype=jnp.bfloat16)
    image = random_image(4, 64, 64, 1)
    variables = make_variables(model, image, train=False)
    encoding, updated = model.apply(variables, image, train=True, mutable=["batch_stats"])
    assert encoding.grid.dtype == jnp.bfloat16
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((variables, updated))}
    assert dtypes == {jnp.dtype("float32")}
    full = dataclasses.replace(model, dtype=jnp.float32)
    expected, _ = full.apply(variables, image, train=True, mutable=["batch_stats"])
    difference = np.abs(encoding.features - expected.features).max()
    assert 0 < difference < 0.05 * float(expected.features.max())


SMALL = ResNet(blocks=(1, 1, 1, 1), bottleneck=False, width=4)


def test_a_finer_grid_has_the_same_parameters(random_image):
    image = random_image(2, 64, 64, 1)
    coarse, fine = SMALL, dataclasses.replace(SMALL, output_stride=16)
    variables = coarse.init(jax.random.key(0), image, train=False)
    assert coarse.apply(variables, image, train=False).grid.shape == (2, 2, 2, 32)
    grid = fine.apply(variables, image, train=False).grid
    assert grid.shape == (2, 4, 4, 32)
    shapes = [
        jax.tree.map(jnp.shape, m.init(jax.random.key(0), image, False)) for m in (SMALL, fine)
    ]
    assert shapes[0] == shapes[1]


def test_masked_cells_do_not_leak_and_leave_the_statistics_alone(random_image):
    model = dataclasses.replace(SMALL, output_stride=16)
    image, masked = random_image(2, 64, 64, 1), np.random.default_rng(0).random((2, 16)) < 0.5
    variables = model.init(jax.random.key(0), image, train=False)
    hidden = masked.reshape(2, 4, 4).repeat(16, axis=1).repeat(16, axis=2)[..., None]

    def encode(image, train):
        return model.apply(variables, image, train, masked, mutable=["batch_stats"])

    encoding, updated = encode(image, True)
    assert updated == {} or jax.tree.all(
        jax.tree.map(np.array_equal, updated["batch_stats"], variables["batch_stats"])
    )
    for other in (np.where(hidden, 100.0, image), np.where(hidden, 0.0, image)):
        np.testing.assert_array_equal(encode(other, True)[0].grid, encoding.grid)
    whole = model.apply(variables, np.where(hidden, 0.0, image), train=False)
    np.testing.assert_array_equal(whole.grid, encoding.grid)
    seen = encode(np.where(hidden, image, image + 1), True)[0]
    assert not np.allclose(seen.grid, encoding.grid)
