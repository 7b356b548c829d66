"""BERT, Devlin et al., https://arxiv.org/abs/1810.04805, without pooler and pretraining heads.

The architecture is Hugging Face's `BertModel` (post-norm, exact GELU, dropout on embeddings,
attention weights and block outputs), so that weights map one to one.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from medclip_jax.models.layers import Attention, Mlp, MultiHeadAttention, transformer_init
from medclip_jax.models.scan import RematPolicy, apply_layers


class Bert(nn.Module):
    """A BERT encoder; the defaults are those of BERT-base, uncased.

    Attributes:
        remat: recompute each layer in the backward pass instead of storing its activations.
        remat_policy: what is stored even so, see `scan.REMAT_POLICIES`.
        scan_layers: compile one layer for all, see `scan.apply_layers`.
        attention: see `layers.attend`.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    dropout_rate: float = 0.1
    epsilon: float = 1e-12
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    remat_policy: RematPolicy = "nothing"
    scan_layers: bool = False
    attention: Attention = "xla"

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        token_mask: Bool[Array, "batch length"],
        token_type_ids: Int[Array, "batch length"] | None = None,
        *,
        deterministic: bool,
    ) -> Float[Array, "batch length hidden"]:
        """Returns one vector a token.

        Args:
            token_ids: of a vocabulary of `vocab_size`.
            token_mask: false on padding, to which no token attends.
            token_type_ids: segment of each token; zeros if None.
            deterministic: no dropout; else the "dropout" key is needed.
        """
        if token_type_ids is None:
            token_type_ids = jnp.zeros_like(token_ids)
        x = BertEmbeddings(
            self.vocab_size,
            self.hidden_size,
            self.max_position_embeddings,
            self.type_vocab_size,
            self.dropout_rate,
            self.epsilon,
            self.dtype,
            name="embeddings",
        )(token_ids, token_type_ids, deterministic)
        layer = partial(
            BertLayer,
            self.num_heads,
            self.intermediate_size,
            self.dropout_rate,
            self.epsilon,
            self.dtype,
            self.attention,
        )
        return apply_layers(self, layer, x, token_mask, deterministic)

    def word_embeddings(self) -> Float[Array, "vocab hidden"]:
        """The table of word embeddings, for a head that shares it; after the first call."""
        return self.variables["params"]["embeddings"]["word_embeddings"]["embedding"]


class BertEmbeddings(nn.Module):
    """The sum of word, position and segment embeddings, normalised."""

    vocab_size: int
    hidden_size: int
    max_position_embeddings: int
    type_vocab_size: int
    dropout_rate: float
    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        token_type_ids: Int[Array, "batch length"],
        deterministic: bool,
    ) -> Float[Array, "batch length hidden"]:
        """Embeds tokens at positions 0, 1, ..."""

        def embed(
            ids: Int[Array, "*shape"], size: int, name: str
        ) -> Float[Array, "*shape channels"]:
            embedding = nn.Embed(
                size, self.hidden_size, embedding_init=transformer_init, dtype=self.dtype, name=name
            )
            return embedding(ids)

        positions = jnp.arange(token_ids.shape[1])
        x = embed(token_ids, self.vocab_size, "word_embeddings")
        x = x + embed(positions, self.max_position_embeddings, "position_embeddings")
        x = x + embed(token_type_ids, self.type_vocab_size, "token_type_embeddings")
        x = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(x)
        return nn.Dropout(self.dropout_rate)(x, deterministic=deterministic)


class BertLayer(nn.Module):
    """One post-norm transformer layer."""

    num_heads: int
    intermediate_size: int
    dropout_rate: float
    epsilon: float
    dtype: DTypeLike
    attention: Attention = "xla"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length channels"],
        token_mask: Bool[Array, "batch length"],
        deterministic: bool,
    ) -> Float[Array, "batch length channels"]:
        """Applies attention, then the MLP; each is added to its input and normalised."""
        dropout = nn.Dropout(self.dropout_rate, deterministic=deterministic)
        y = MultiHeadAttention(
            self.num_heads,
            self.dropout_rate,
            self.dtype,
            attention=self.attention,
            name="attention",
        )(x, token_mask, deterministic)
        x = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="attention_norm")(x + dropout(y))
        y = Mlp(self.intermediate_size, self.dtype, name="mlp")(x)
        return nn.LayerNorm(self.epsilon, dtype=self.dtype, name="mlp_norm")(x + dropout(y))
