"""The dual encoder: an image and a text encoder with projections into one space."""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medclip_jax.models.heads import normalize
from medclip_jax.models.pooling import Pooling, pool_tokens

Outputs = dict[str, Array]


class ImageTextModel(nn.Module):
    """Encodes images and texts; all outputs are float32 and the embeddings have unit length.

    Attributes:
        image_encoder: a module that maps (image, train) to an `ImageEncoding`.
        text_encoder: a module that maps (token_ids, token_mask, deterministic=) to token vectors.
        image_projection: maps image features to embeddings, as does `text_projection` for texts.
        text_pooling: how the token vectors of a text become one vector.
        image_channels: channels that the image encoder gets; grey is repeated.
        initial_temperature: divides the cosine similarities in the loss.
        learn_temperature: whether the temperature is a parameter (its logarithm).
        initial_bias: added to the logits of the sigmoid loss, a parameter; None if there is none.
    """

    image_encoder: nn.Module
    text_encoder: nn.Module
    image_projection: nn.Module
    text_projection: nn.Module
    text_pooling: Pooling = "max"
    image_channels: int = 1
    initial_temperature: float = 0.1
    learn_temperature: bool = False
    initial_bias: float | None = None

    def setup(self) -> None:
        """Creates the scalar parameters."""
        if self.learn_temperature:
            initial = nn.initializers.constant(math.log(self.initial_temperature))
            self.log_temperature = self.param("log_temperature", initial, ())
        if self.initial_bias is not None:
            self.bias = self.param("bias", nn.initializers.constant(self.initial_bias), ())

    def __call__(self, batch: Mapping[str, Array], train: bool = False) -> Outputs:
        """Encodes the images and the texts of a batch.

        Args:
            batch: `image` float32 [B, H, W, 1], normalised; `token_ids` int32 [B, L]; `token_mask`
                bool [B, L], false on padding. Other keys are ignored.
            train: batch statistics are updated (`mutable=["batch_stats"]`) and the "dropout" key is
                needed.

        Returns:
            The outputs of `encode_image`, `encode_text` and `scalars`.
        """
        outputs = self.encode_image(batch["image"], train)
        outputs |= self.encode_text(batch["token_ids"], batch["token_mask"], train)
        return outputs | self.scalars()

    def encode_image(
        self, image: Float[Array, "batch height width 1"], train: bool = False
    ) -> Outputs:
        """Returns `image_embeddings` [B, D], `image_features` [B, F], `image_grid` [B, N, C].

        The features are the pooled output of the encoder, before the projection; the grid holds
        the N patches or spatial cells, row by row.
        """
        image = jnp.broadcast_to(image, (*image.shape[:-1], self.image_channels))
        encoding = self.image_encoder(image, train)
        batch, rows, columns, channels = encoding.grid.shape
        return {
            "image_embeddings": normalize(self.image_projection(encoding.features)),
            "image_features": encoding.features.astype(jnp.float32),
            "image_grid": encoding.grid.reshape(batch, rows * columns, channels).astype(
                jnp.float32
            ),
        }

    def encode_text(
        self,
        token_ids: Int[Array, "batch length"],
        token_mask: Bool[Array, "batch length"],
        train: bool = False,
    ) -> Outputs:
        """Returns `text_embeddings` [B, D] and `text_tokens` [B, L, C], the encoder's output."""
        tokens = self.text_encoder(token_ids, token_mask, deterministic=not train)
        features = pool_tokens(tokens, token_mask, pooling=self.text_pooling)
        return {
            "text_embeddings": normalize(self.text_projection(features)),
            "text_tokens": tokens.astype(jnp.float32),
        }

    def scalars(self) -> Outputs:
        """Returns `temperature` and, if the model has one, `bias`."""
        if self.learn_temperature:
            outputs = {"temperature": jnp.exp(self.log_temperature)}
        else:
            outputs = {"temperature": jnp.float32(self.initial_temperature)}
        if self.initial_bias is not None:
            outputs["bias"] = self.bias
        return outputs
