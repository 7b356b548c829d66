"""Heads: small networks from an encoder's or the fusion's outputs to what an objective needs.

The projections lead into the space that images and texts share; the others give the logit of a
pair, logits of tokens and the pixels of patches, in float32.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medclip_jax.models.layers import dense_init, transformer_init


class ProjectionHead(nn.Module):
    """The non-linear head of ConVIRT, W2 relu(W1 h), https://arxiv.org/abs/2010.00747; or W h.

    Attributes:
        size: size of the embedding.
        nonlinear: whether there is a hidden layer, as wide as the features.
        use_bias: whether the layers have a bias.
    """

    size: int
    nonlinear: bool = True
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "batch features"]) -> Float[Array, "batch size"]:
        """Projects features; the result is not normalised."""
        if self.nonlinear:
            features = nn.Dense(
                features.shape[-1], use_bias=self.use_bias, dtype=self.dtype, name="hidden"
            )(features)
            features = nn.relu(features)
        return nn.Dense(self.size, use_bias=self.use_bias, dtype=self.dtype, name="output")(
            features
        )


def normalize(
    vectors: Float[Array, "*batch channels"], epsilon: float = 1e-6
) -> Float[Array, "*batch channels"]:
    """Float32 vectors of unit length; those shorter than `epsilon` are divided by `epsilon`.

    Unlike a division by the norm, this has a finite gradient at zero. Where the squared length
    overflows the result is NaN: a division by infinity would give zeros, which nothing tells from
    an embedding.
    """
    vectors = vectors.astype(jnp.float32)
    squared_length = jnp.sum(vectors**2, axis=-1, keepdims=True)
    length = jnp.sqrt(jnp.maximum(squared_length, epsilon**2))
    return vectors / jnp.where(jnp.isinf(length), jnp.nan, length)


class MatchingHead(nn.Module):
    """The logit of a pair to be a true match: a network with one hidden layer.

    Attributes:
        hidden_size: width of the hidden layer.
    """

    hidden_size: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "pairs features"]) -> Float[Array, " pairs"]:
        """Maps features of pairs, of `pair_features` or of the fusion's class token, to logits."""
        hidden = nn.relu(nn.Dense(self.hidden_size, dtype=self.dtype, name="hidden")(features))
        logits = nn.Dense(1, dtype=self.dtype, name="output")(hidden)
        return logits[:, 0].astype(jnp.float32)


def pair_features(
    image: Float[Array, "pairs dim"], text: Float[Array, "pairs dim"]
) -> Float[Array, "pairs features"]:
    """u, v, u * v and |u - v| of two vectors: InferSent's, https://arxiv.org/abs/1705.02364.

    ConVIRT's baseline with a binary loss, https://arxiv.org/abs/2010.00747, has only u and v.
    """
    return jnp.concatenate([image, text, image * text, jnp.abs(image - text)], axis=-1)


class MaskedLanguageHead(nn.Module):
    """The head of BERT's masked language model, with the word embeddings as its last matrix."""

    epsilon: float = 1e-12
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "batch length channels"],
        embedding: Float[Array, "vocab embedding_channels"],
    ) -> Float[Array, "batch length vocab"]:
        """Float32 logits of the vocabulary at each token.

        Args:
            tokens: the transformer's output, of any width.
            embedding: the table of word embeddings, which is shared.
        """
        vocab_size, channels = embedding.shape
        x = nn.Dense(channels, dtype=self.dtype, kernel_init=dense_init, name="transform")(tokens)
        x = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(nn.gelu(x, approximate=False))
        bias = self.param("bias", nn.initializers.zeros, (vocab_size,))
        logits = jnp.einsum(
            "blc,vc->blv", x, embedding.astype(self.dtype), preferred_element_type=jnp.float32
        )
        return logits + bias


class PixelHead(nn.Module):
    """The pixels of a patch from its token: one linear layer, as in MAE, arXiv 2111.06377.

    Attributes:
        num_pixels: values of a patch.
    """

    num_pixels: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "*batch channels"]) -> Float[Array, "*batch pixels"]:
        """Float32 pixels, in the order of `patchify`."""
        # Small weights: short runs leave the grain of larger ones in what they regenerate.
        pixels = nn.Dense(
            self.num_pixels, dtype=self.dtype, kernel_init=transformer_init, name="output"
        )(tokens)
        return pixels.astype(jnp.float32)
