"""soft_target_contrastive against a NumPy reference in float64, and against PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax import losses


@pytest.fixture
def studies():
    """Images and texts, not as many, with labels, some unknown, and rows that do not count."""
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(9, 6)), 3 * rng.normal(size=(7, 6))
    image_labels, text_labels = (
        rng.choice([0.0, 1.0, np.nan], size=(size, 5), p=[0.5, 0.4, 0.1]) for size in (9, 7)
    )
    image_labels[:, 0] = text_labels[:, 1] = 1.0
    arrays = (image, text, image_labels, text_labels)
    masks = rng.random(9) < 0.7, rng.random(7) < 0.7
    return *(array.astype(np.float32) for array in arrays), *masks


def reference(image, text, temperature, image_labels, text_labels):
    """MedCLIP's equations written out, in float64: the loss and the targets' entropy."""
    cosines = []
    for rows, columns in ((image, text), (np.nan_to_num(image_labels), np.nan_to_num(text_labels))):
        rows, columns = np.asarray(rows, np.float64), np.asarray(columns, np.float64)
        lengths = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(columns, axis=1)
        cosines.append(rows @ columns.T / lengths)
    loss = entropy = 0.0
    for similarity, labels in (cosines, (cosines[0].T, cosines[1].T)):
        targets = np.exp(labels) / np.exp(labels).sum(axis=1, keepdims=True)
        predicted = np.exp(similarity / temperature)
        predicted /= predicted.sum(axis=1, keepdims=True)
        loss -= np.mean(np.sum(targets * np.log(predicted), axis=1)) / 2
        entropy -= np.mean(np.sum(targets * np.log(targets), axis=1)) / 2
    return loss, entropy


@jax.jit
def value_and_gradients(image, text, temperature, image_labels, text_labels, *masks):
    def loss(image, text, temperature):
        return losses.soft_target_contrastive(
            image,
            text,
            temperature=temperature,
            image_labels=image_labels,
            text_labels=text_labels,
            image_mask=masks[0] if masks else None,
            text_mask=masks[1] if masks else None,
        )

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(image, text, temperature)


def test_value_equals_the_reference(studies):
    image, text, *labels = studies[:4]
    (loss, metrics), _ = value_and_gradients(image, text, 0.2, *labels)
    expected, entropy = reference(image, text, 0.2, *labels)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert metrics["target_entropy"] == pytest.approx(entropy, rel=1e-5)
    assert metrics["temperature"] == pytest.approx(0.2)
    halves = metrics["image_to_text_loss"] + metrics["text_to_image_loss"]
    assert loss == pytest.approx(float(halves) / 2, rel=1e-6)


def test_value_and_gradients_equal_pytorch(studies):
    """`cross_entropy` takes probabilities for targets."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    image, text, *labels = studies[:4]
    leaves = [torch.tensor(value, requires_grad=True) for value in (image, text, np.float32(0.2))]
    unit = [functional.normalize(leaf, dim=1) for leaf in leaves[:2]]
    unit_labels = [functional.normalize(torch.tensor(np.nan_to_num(value))) for value in labels]
    logits, similarity = unit[0] @ unit[1].T / leaves[2], unit_labels[0] @ unit_labels[1].T
    by_image = functional.cross_entropy(logits, similarity.softmax(1))
    by_text = functional.cross_entropy(logits.T, similarity.T.softmax(1))
    ((by_image + by_text) / 2).backward()
    (_, metrics), gradients = value_and_gradients(image, text, 0.2, *labels)
    assert metrics["image_to_text_loss"] == pytest.approx(by_image.item(), rel=1e-5)
    assert metrics["text_to_image_loss"] == pytest.approx(by_text.item(), rel=1e-5)
    assert abs(by_image.item() - by_text.item()) > 0.1
    for gradient, leaf in zip(gradients, leaves, strict=True):
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_gradient_equals_finite_differences(studies, assert_slope):
    image, text, image_labels, text_labels = studies[:4]
    labels = {"image_labels": image_labels, "text_labels": text_labels}

    def loss(image, text, temperature):
        options = {"temperature": temperature, **labels}
        return losses.soft_target_contrastive(image, text, **options)[0]

    assert_slope(
        jax.jit(loss), lambda *moved: reference(*moved, **labels)[0], image, text, np.float32(0.2)
    )


def test_masks_are_the_same_as_the_rows_alone(studies):
    image, text, image_labels, text_labels, image_mask, text_mask = studies
    (value, metrics), gradients = value_and_gradients(image, text, 0.2, *studies[2:])
    kept = (image[image_mask], text[text_mask], 0.2)
    labels = (image_labels[image_mask], text_labels[text_mask])
    (alone, expected_metrics), expected = value_and_gradients(*kept, *labels)
    assert value == pytest.approx(float(alone), rel=1e-6)
    assert value == pytest.approx(reference(*kept, *labels)[0], rel=1e-5)
    gradients = (gradients[0][image_mask], gradients[1][text_mask], gradients[2])
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(same, (metrics, gradients), (expected_metrics, expected))


def test_a_row_without_a_label_is_left_out(studies):
    """The labels of one image are all 0 or unknown, those of one text all unknown."""
    image, text, image_labels, text_labels = studies[:4]
    image_labels[2], text_labels[5] = [0.0, np.nan, 0.0, 0.0, np.nan], np.nan
    (value, _), gradients = value_and_gradients(image, text, 0.2, image_labels, text_labels)
    kept = [np.delete(image, 2, axis=0), np.delete(text, 5, axis=0)]
    labels = [np.delete(image_labels, 2, axis=0), np.delete(text_labels, 5, axis=0)]
    assert value == pytest.approx(reference(*kept, 0.2, *labels)[0], rel=1e-5)
    np.testing.assert_array_equal(gradients[0][2], 0.0)
    np.testing.assert_array_equal(gradients[1][5], 0.0)


@pytest.mark.parametrize("image_rows", [0, 9])
def test_without_texts_or_both_all_is_zero(studies, image_rows):
    image, text, image_labels, text_labels = studies[:4]
    image[4] = text[3] = np.nan  # What masked rows hold does not matter.
    masks = (np.arange(9) < image_rows) & (np.arange(9) != 4), np.zeros(7, bool)
    (value, _), gradients = value_and_gradients(image, text, 0.2, image_labels, text_labels, *masks)
    assert value == 0.0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0.0)


def test_two_patients_with_the_same_finding_are_not_pushed_apart():
    """Swapping two reports with the same labels changes nothing, where InfoNCE would object."""
    image = jnp.eye(4)
    labels = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    options = {"temperature": 0.2, "image_labels": labels, "text_labels": labels}
    own, _ = losses.soft_target_contrastive(image, image, **options)
    swapped, _ = losses.soft_target_contrastive(image, image[jnp.array([1, 0, 3, 2])], **options)
    wrong, _ = losses.soft_target_contrastive(image, image[jnp.array([2, 3, 0, 1])], **options)
    assert own == pytest.approx(float(swapped), rel=1e-6)
    assert wrong > own + 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_labels": np.ones((3, 2))}, "4 embeddings need as many labels"),
        ({"text_labels": np.ones((5, 3))}, "agree in their dim"),
        ({"text_mask": np.ones(4, bool)}, "5 embeddings need as many labels"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    options = {"image_labels": np.ones((4, 2)), "text_labels": np.ones((5, 2))} | options
    with pytest.raises(ValueError, match=message):
        losses.soft_target_contrastive(
            jnp.ones((4, 8)), jnp.ones((5, 8)), temperature=0.1, **options
        )
