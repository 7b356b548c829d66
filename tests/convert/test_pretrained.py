"""Weights of each family, fitted to our encoders: outputs against PyTorch, sizes, left-overs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.convert.pretrained import fit_image_encoder, fit_text_encoder
from medclip_jax.convert.weight_files import Weights
from medclip_jax.errors import UserError
from medclip_jax.models.bert import Bert
from medclip_jax.models.resnet import ResNet
from medclip_jax.models.vit import VisionTransformer

torch = pytest.importorskip("torch")


def weights_of(model) -> Weights:
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    return Weights(state, {})


def saved_weights_of(model, folder) -> Weights:
    """As transformers saves them, under the names of its files."""
    from medclip_jax.convert.weight_files import read_weights

    model.save_pretrained(folder)
    return read_weights(str(folder))


def shapes_of(module, *arguments, **options):
    return jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments, **options))


def random_image(size: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, size, size, channels)).astype(np.float32)


def to_torch(image: np.ndarray):
    return torch.from_numpy(image.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(("size", "layer_type"), [(64, "basic"), (96, "bottleneck")])
def test_hugging_face_resnet(transformers, randomize, tmp_path, size, layer_type) -> None:
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 32, 64] if layer_type == "basic" else [32, 64, 128, 256],
        depths=[2, 2, 2, 2],
        layer_type=layer_type,
    )
    theirs = transformers.ResNetModel(config)
    randomize(theirs.eval())
    ours = ResNet(blocks=(2, 2, 2, 2), bottleneck=layer_type == "bottleneck", width=8)
    image = random_image(size)
    shapes = shapes_of(ours, jnp.asarray(image), train=False)
    fitted = fit_image_encoder(saved_weights_of(theirs, tmp_path), shapes, channels=3)
    features = ours.apply(fitted.variables, image, train=False).features
    with torch.no_grad():
        expected = theirs(to_torch(image)).pooler_output.flatten(1)
    np.testing.assert_allclose(features, expected, atol=1e-4, rtol=1e-4)
    assert "of a Hugging Face ResNet were loaded" in fitted.notes[0]


@pytest.mark.parametrize(("size", "channels"), [(64, 1), (96, 3), (128, 3)])
def test_timm_vit_at_other_sizes(timm, randomize, size: int, channels: int) -> None:
    options = {"patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    theirs = timm.models.VisionTransformer(img_size=96, **options)
    randomize(theirs.eval())
    ours = VisionTransformer(hidden_size=24, num_layers=2, num_heads=3)
    image = random_image(size, channels)
    shapes = shapes_of(ours, jnp.asarray(image), train=False)
    fitted = fit_image_encoder(weights_of(theirs), shapes, channels=channels)
    resized = timm.models.VisionTransformer(img_size=size, **options).eval()
    state = theirs.state_dict()
    grid = size // 16
    state["pos_embed"] = timm.layers.resample_abs_pos_embed(state["pos_embed"], [grid, grid])
    resized.load_state_dict(state)
    with torch.no_grad():
        # One channel stands for three equal ones.
        expected = resized.forward_features(to_torch(image).repeat(1, 3 // channels, 1, 1))[:, 0]
    features = ours.apply(fitted.variables, image, train=False).features
    np.testing.assert_allclose(features, expected, atol=1e-4, rtol=1e-4)
    assert fitted.notes[1] == "left out: head"
    reshaped = [note for note in fitted.notes if note.startswith("reshaped")]
    assert len(reshaped) == (size != 96)


@pytest.mark.parametrize("renamed", [False, True])
def test_torchvision_vit(torchvision, randomize, renamed: bool) -> None:
    theirs = torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=3, hidden_dim=24, mlp_dim=96
    )
    randomize(theirs.eval())
    weights = weights_of(theirs)
    if renamed:  # as in files of old versions
        for name in list(weights.arrays):
            old = name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2.")
            weights.arrays[old] = weights.arrays.pop(name)
    ours = VisionTransformer(hidden_size=24, num_layers=2, num_heads=3)
    image = random_image(64)
    shapes = shapes_of(ours, jnp.asarray(image), train=False)
    fitted = fit_image_encoder(weights, shapes, channels=3)
    theirs.heads = torch.nn.Identity()
    with torch.no_grad():
        expected = theirs(to_torch(image))
    features = ours.apply(fitted.variables, image, train=False).features
    np.testing.assert_allclose(features, expected, atol=1e-4, rtol=1e-4)
    assert fitted.notes[1] == "left out: heads"


BERT = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24, "vocab_size": 50}


@pytest.mark.parametrize("head", ["BertModel", "BertForMaskedLM"])
def test_bert_with_and_without_heads(transformers, randomize, tmp_path, head: str) -> None:
    config = transformers.BertConfig(num_hidden_layers=2, max_position_embeddings=20, **BERT)
    theirs = getattr(transformers, head)(config)
    randomize(theirs.eval())
    ours = bert(max_position_embeddings=20)
    ids = np.random.default_rng(0).integers(0, 50, (3, 20))
    mask = np.arange(20) < np.array([[20], [7], [1]])
    weights = saved_weights_of(theirs, tmp_path)
    prefix = "" if head == "BertModel" else "bert."
    older = {f"{prefix}embeddings.position_ids": np.arange(20)[None]}  # as MiniLM's file has
    weights = weights._replace(arrays={**weights.arrays, **older})
    fitted = fit_text_encoder(weights, bert_shapes(ours))
    found = ours.apply(fitted.variables, ids, mask, deterministic=True)
    with torch.no_grad():
        base = theirs if head == "BertModel" else theirs.bert
        expected = base(
            torch.from_numpy(ids), attention_mask=torch.from_numpy(mask.astype(np.int64))
        ).last_hidden_state
    np.testing.assert_allclose(found[mask], expected.numpy()[mask], atol=1e-4)
    assert fitted.notes[1] == f"left out: {'pooler' if head == 'BertModel' else 'cls'}"


def bert(**options: int) -> Bert:
    sizes = {"max_position_embeddings": 20} | options
    return Bert(
        vocab_size=50, hidden_size=16, num_layers=2, num_heads=4, intermediate_size=24, **sizes
    )


def bert_shapes(module: Bert):
    return shapes_of(
        module, jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool), deterministic=True
    )


@pytest.fixture
def bert_weights(transformers):
    def make(**options: int) -> Weights:
        settings = {"num_hidden_layers": 2, "max_position_embeddings": 20} | options
        return weights_of(transformers.BertModel(transformers.BertConfig(**BERT | settings)))

    return make


def test_longer_and_shorter_texts(bert_weights) -> None:
    weights = bert_weights()
    positions = weights.arrays["embeddings.position_embeddings.weight"]
    path = ("params", "embeddings", "position_embeddings", "embedding")
    for length in (12, 20, 40):
        fitted = fit_text_encoder(weights, bert_shapes(bert(max_position_embeddings=length)))
        found = fitted.variables
        for key in path:
            found = found[key]
        assert found.shape == (length, 16)
        if length <= 20:
            np.testing.assert_array_equal(found, positions[:length])
        else:
            expected = (
                torch.nn.functional.interpolate(
                    torch.from_numpy(positions.T[None]), size=length, mode="linear"
                )[0]
                .numpy()
                .T
            )
            np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_hidden_layers": 3}, "have params/layer_2/.* our encoder has no place for"),
        ({"num_hidden_layers": 1}, "lack params/layer_1/.*set its size to theirs"),
        ({"hidden_size": 32}, r"of the weights is .*32.*, of our encoder .*16"),
        ({"vocab_size": 49}, "know 49 tokens, the tokenizer has 50: leave config.tokenizer.dir"),
        ({"type_vocab_size": 3}, r"token_type_emb.* is \[3, 16\], of our encoder \[2, 16\]"),
    ],
)
def test_other_sizes_are_named(bert_weights, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_text_encoder(bert_weights(**options), bert_shapes(bert()))


def test_other_architectures_are_refused(bert_weights) -> None:
    with pytest.raises(UserError, match="unknown kind .with 'a.b'.; known are: torchvision ResNet"):
        fit_image_encoder(Weights({"a.b": np.ones(3)}, {}), {}, channels=1)
    with pytest.raises(UserError, match="known are: Hugging Face BERT"):
        fit_text_encoder(Weights({}, {}), {})
    weights = bert_weights()
    weights.arrays["encoder.layer.0.adapter.weight"] = np.ones((2, 2), np.float32)
    with pytest.raises(UserError, match="hold 'encoder.layer.0.adapter.weight', which is no array"):
        fit_text_encoder(weights, bert_shapes(bert()))
