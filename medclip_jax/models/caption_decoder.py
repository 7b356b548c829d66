"""The caption decoder: a transformer that writes the report of an image, forwards and backwards.

RadTex, Quigley et al., https://arxiv.org/abs/2208.03218, takes it from VirTex, Desai & Johnson,
https://arxiv.org/abs/2006.06666: post-norm layers of causal self-attention, attention to the image
grid and MLP; the input embeddings are the output layer too. `start` and `step` decode token by
token with cached keys and values.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from medclip_jax.errors import UserError
from medclip_jax.models.cached_attention import CachedAttention
from medclip_jax.models.layers import Mlp, dense_init, transformer_init

# That of PyTorch's decoder layers.
EPSILON = 1e-5


class LayerCache(NamedTuple):
    """What a layer keeps between steps: keys and values of the tokens so far and of the image."""

    keys: Float[Array, "batch length heads head_channels"]
    values: Float[Array, "batch length heads head_channels"]
    image_keys: Float[Array, "batch cells heads head_channels"]
    image_values: Float[Array, "batch cells heads head_channels"]


Cache = tuple[LayerCache, ...]


class CaptionDecoder(nn.Module):
    """Predicts each token of a text from the image and the tokens before it.

    The backward decoder, which reads the text from its end, has layers of its own; it shares the
    projection of the image, the embeddings and the output with the forward one.

    Attributes:
        max_length: longest text in tokens, special ones included.
        dropout_rate: of embeddings, attention weights and block outputs.
        bidirectional: whether there is a backward decoder.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_length: int
    dropout_rate: float = 0.1
    bidirectional: bool = True
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Creates embeddings, layers and the bias of the output."""
        self.image_projection = nn.Dense(self.hidden_size, dtype=self.dtype, kernel_init=dense_init)
        self.word_embeddings = self._embedding(self.vocab_size)
        self.position_embeddings = self._embedding(self.max_length)
        self.embedding_norm = nn.LayerNorm(EPSILON, dtype=self.dtype)
        self.embedding_dropout = nn.Dropout(self.dropout_rate)
        self.forward_layers = self._layers()
        if self.bidirectional:
            self.backward_layers = self._layers()
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.vocab_size,))

    def __call__(
        self,
        image_grid: Float[Array, "batch cells grid_channels"],
        token_ids: Int[Array, "batch length"],
        token_mask: Bool[Array, "batch length"],
        *,
        deterministic: bool,
    ) -> dict[str, Array]:
        """Predicts the tokens of whole texts at once.

        Args:
            image_grid: the patches or spatial cells of each image.
            token_ids: texts `[CLS] w1 ... wn [SEP]`, then padding.
            token_mask: false on padding, to which no token attends.
            deterministic: no dropout; else the "dropout" key is needed.

        Returns:
            `caption_logits` float32 [B, L - 1, V]: those at t predict token t + 1; and, if the
            decoder is bidirectional, `backward_caption_logits`, which predict `reverse_tokens`.

        Raises:
            UserError: the texts are longer than `max_length`.
        """
        self._check_length(token_ids.shape[1])
        image = self.image_projection(image_grid)
        mask = token_mask[:, :-1]

        def predict(
            layers: Sequence[DecoderLayer], ids: Int[Array, "batch length"]
        ) -> Float[Array, "batch length_minus_1 vocabulary"]:
            x = self._embed(ids[:, :-1], jnp.arange(ids.shape[1] - 1), deterministic)
            for layer in layers:
                x = layer(x, image, mask, deterministic)
            return self._logits(x)

        outputs = {"caption_logits": predict(self.forward_layers, token_ids)}
        if self.bidirectional:
            reversed_ids = reverse_tokens(token_ids, token_mask)
            outputs["backward_caption_logits"] = predict(self.backward_layers, reversed_ids)
        return outputs

    def start(
        self, image_grid: Float[Array, "batch cells grid_channels"], max_length: int
    ) -> Cache:
        """Prepares to write texts of up to `max_length` tokens, special ones included.

        Returns:
            The cache, whose arrays all have the batch as first axis.

        Raises:
            UserError: `max_length` is above the decoder's.
        """
        self._check_length(max_length)
        image = self.image_projection(image_grid)
        # The last token of a text is never read.
        return tuple(layer.start(image, max_length - 1) for layer in self.forward_layers)

    def step(
        self, cache: Cache, token_ids: Int[Array, " batch"], position: Int[Array, ""]
    ) -> tuple[Float[Array, "batch vocabulary"], Cache]:
        """Reads one more token of each text, without dropout.

        Args:
            cache: of `start`, or of the step that read the tokens at `position - 1`.
            token_ids: the tokens at `position`.
            position: counted from 0, at which `[CLS]` stands.

        Returns:
            The float32 logits of the tokens at `position + 1`, and the cache with this step's.
        """
        x = self._embed(token_ids[:, None], jnp.reshape(position, (1,)), deterministic=True)
        new_cache = []
        for layer, layer_cache in zip(self.forward_layers, cache, strict=True):
            x, layer_cache = layer.step(x, layer_cache, position)
            new_cache.append(layer_cache)
        return self._logits(x)[:, 0], tuple(new_cache)

    def _embedding(self, size: int) -> nn.Embed:
        return nn.Embed(size, self.hidden_size, embedding_init=transformer_init, dtype=self.dtype)

    def _layers(self) -> list["DecoderLayer"]:
        return [
            DecoderLayer(
                self.hidden_size,
                self.num_heads,
                self.intermediate_size,
                self.dropout_rate,
                self.dtype,
            )
            for _ in range(self.num_layers)
        ]

    def _check_length(self, length: int) -> None:
        if length > self.max_length:
            raise UserError(
                f"a text of {length} tokens is too long for a caption decoder of max_length "
                f"{self.max_length}: shorten the texts or raise max_length"
            )

    def _embed(
        self,
        token_ids: Int[Array, "batch length"],
        positions: Int[Array, " length"],
        deterministic: bool,
    ) -> Float[Array, "batch length hidden"]:
        """The normalised sum of word and position embeddings."""
        x = self.word_embeddings(token_ids) + self.position_embeddings(positions)
        return self.embedding_dropout(self.embedding_norm(x), deterministic=deterministic)

    def _logits(
        self, x: Float[Array, "batch length hidden"]
    ) -> Float[Array, "batch length vocabulary"]:
        """The dot products with the word embeddings, plus the bias, in float32."""
        words = self.word_embeddings.embedding.astype(self.dtype)
        logits = jnp.einsum("blh,vh->blv", x, words, preferred_element_type=jnp.float32)
        return logits + self.output_bias


class DecoderLayer(nn.Module):
    """One post-norm layer of causal self-attention, attention to the image, and MLP."""

    hidden_size: int
    num_heads: int
    intermediate_size: int
    dropout_rate: float
    dtype: DTypeLike

    def setup(self) -> None:
        """Creates the three blocks and their norms."""

        def attention() -> CachedAttention:
            return CachedAttention(self.hidden_size, self.num_heads, self.dropout_rate, self.dtype)

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(EPSILON, dtype=self.dtype)

        self.self_attention, self.self_attention_norm = attention(), norm()
        self.image_attention, self.image_attention_norm = attention(), norm()
        self.mlp = Mlp(self.intermediate_size, self.dtype, dense_init)
        self.mlp_norm = norm()
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(
        self,
        x: Float[Array, "batch length channels"],
        image: Float[Array, "batch cells channels"],
        token_mask: Bool[Array, "batch length"],
        deterministic: bool,
    ) -> Float[Array, "batch length channels"]:
        """Applies the layer to whole texts."""
        causal = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
        cache = LayerCache(
            *self.self_attention.keys_values(x), *self.image_attention.keys_values(image)
        )
        return self._blocks(x, cache, causal & token_mask[:, None, :], deterministic)

    def start(self, image: Float[Array, "batch cells channels"], length: int) -> LayerCache:
        """Returns the cache with the image and room for `length` tokens."""
        image_keys, image_values = self.image_attention.keys_values(image)
        tokens = jnp.zeros((image.shape[0], length, *image_keys.shape[2:]), image_keys.dtype)
        return LayerCache(tokens, tokens, image_keys, image_values)

    def step(
        self,
        x: Float[Array, "batch 1 channels"],
        cache: LayerCache,
        position: Int[Array, ""],
    ) -> tuple[Float[Array, "batch 1 channels"], LayerCache]:
        """Applies the layer to the tokens at `position`, which join the cache."""

        def write(
            old: Float[Array, "batch length heads head_channels"],
            new: Float[Array, "batch 1 heads head_channels"],
        ) -> Float[Array, "batch length heads head_channels"]:
            return jax.lax.dynamic_update_slice_in_dim(old, new, position, axis=1)

        key, value = self.self_attention.keys_values(x)
        cache = cache._replace(keys=write(cache.keys, key), values=write(cache.values, value))
        is_read = jnp.arange(cache.keys.shape[1]) <= position
        return self._blocks(x, cache, is_read[None, None, :], deterministic=True), cache

    def _blocks(
        self,
        x: Float[Array, "batch queries channels"],
        cache: LayerCache,
        mask: Bool[Array, "#batch #queries length"],
        deterministic: bool,
    ) -> Float[Array, "batch queries channels"]:
        """Applies the blocks; each is added to its input and normalised."""

        def dropout(y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
            return self.dropout(y, deterministic=deterministic)

        y = self.self_attention(x, cache.keys, cache.values, mask, deterministic=deterministic)
        x = self.self_attention_norm(x + dropout(y))
        y = self.image_attention(
            x, cache.image_keys, cache.image_values, deterministic=deterministic
        )
        x = self.image_attention_norm(x + dropout(y))
        return self.mlp_norm(x + dropout(self.mlp(x)))


def reverse_tokens(
    token_ids: Int[Array, "batch length"], token_mask: Bool[Array, "batch length"]
) -> Int[Array, "batch length"]:
    """Turns `[CLS] w1 ... wn [SEP]` into `[CLS] wn ... w1 [SEP]`; padding stays at the end."""
    last = token_mask.sum(axis=1, keepdims=True) - 1
    positions = jnp.arange(token_ids.shape[1])
    is_word = (positions > 0) & (positions < last)
    return jnp.take_along_axis(token_ids, jnp.where(is_word, last - positions, positions), axis=1)
