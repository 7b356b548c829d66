"""The model: an image and a text encoder, and the parts that the active objectives need.

A part that no objective needs is None, so that every parameter is trained. What several parts
read (an encoding of the images or of the texts) is computed once.
"""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medclip_jax.models.caption_decoder import Cache, CaptionDecoder
from medclip_jax.models.fusion import FusionTransformer
from medclip_jax.models.heads import MaskedLanguageHead, PixelHead, normalize
from medclip_jax.models.matching import PairMatching, Pairs
from medclip_jax.models.pooling import Pooling, pool_tokens

Outputs = dict[str, Array]


class ImageTextModel(nn.Module):
    """Encodes images and texts; all outputs are float32 and the embeddings have unit length.

    Attributes:
        image_encoder: a module that maps (image, train) to an `ImageEncoding`.
        text_encoder: a module that maps (token_ids, token_mask, deterministic=) to token vectors;
            None if texts are only generated.
        image_projection: maps image features to embeddings, as does `text_projection` for texts.
        fusion: a transformer over the image's grid and the text's tokens together.
        shared_fusion: whether images alone and texts alone go through the fusion too.
        matching: tells real pairs from others.
        language_head: predicts masked tokens from the fusion's text side.
        pixel_head: predicts the pixels of masked patches from the fusion's image side.
        num_visible: patches that are not masked, where that number is always the same.
        caption_decoder: writes reports from the image's grid.
        region_projection: maps the image's grid to vectors that `word_projection` compares tokens
            with.
        image_pooling: how the fusion's image tokens become one vector, if it is shared.
        text_pooling: how the token vectors of a text become one vector.
        image_channels: channels that the image encoder gets; grey is repeated.
        initial_temperature: divides the cosine similarities in the loss.
        learn_temperature: whether the temperature is a parameter (its logarithm).
        initial_bias: added to the logits of the sigmoid loss, a parameter; None if there is none.
    """

    image_encoder: nn.Module
    text_encoder: nn.Module | None
    image_projection: nn.Module | None = None
    text_projection: nn.Module | None = None
    fusion: FusionTransformer | None = None
    shared_fusion: bool = False
    matching: PairMatching | None = None
    language_head: MaskedLanguageHead | None = None
    pixel_head: PixelHead | None = None
    num_visible: int | None = None
    caption_decoder: CaptionDecoder | None = None
    region_projection: nn.Module | None = None
    word_projection: nn.Module | None = None
    image_pooling: Pooling = "mean"
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
        """Encodes the images and the texts of a batch, and applies every part there is.

        Args:
            batch: `image` float32 [B, H, W, 1], normalised; `token_ids` int32 [B, L]; `token_mask`
                bool [B, L], false on padding; `has_image` and `has_text` bool [B]. The parts read
                what `train.masks.BatchMasks` adds, and `labels`. Other keys are ignored.
            train: batch statistics are updated (`mutable=["batch_stats"]`) and the "dropout" key is
                needed. Matching always needs the "negatives" key.

        Returns:
            The outputs of `encode_image`, `encode_text` and `scalars`, and of the parts:
            `match_logits`, `is_match`, `match_mask` [2 B]; `token_logits` [B, L, V];
            `patch_predictions` [B, N, P]; `caption_logits` and `backward_caption_logits`
            [B, L - 1, V]; `image_regions` [B, N, D] and `word_embeddings` [B, L, D].
        """
        outputs = self.encode_rows(batch, train) | self.scalars()
        if self.matching is not None:
            pairs = self.draw_pairs(batch, outputs)
            sides = self.pair_sides(batch, outputs, pairs.image_rows, pairs.text_rows)
            outputs |= self.judge(*sides, train) | pairs.targets()
        return outputs

    def encode_rows(self, batch: Mapping[str, Array], train: bool = False) -> Outputs:
        """The outputs of `__call__` for which rows are not compared with one another.

        Beside `scalars` only those of matching are missing: a part of a batch gives the same rows.
        """
        image = self.encode_image(batch["image"], train, batch["has_image"])
        text: Outputs = {}
        if self.text_encoder is not None:
            text = self.encode_text(batch["token_ids"], batch["token_mask"], train)
        outputs = image | text
        if self.region_projection is not None and self.word_projection is not None:
            outputs["image_regions"] = self.region_projection(image["image_grid"])
            outputs["word_embeddings"] = self.word_projection(text["text_tokens"])
        if self.language_head is not None:
            outputs["token_logits"] = self.fill_tokens(batch, image["image_grid"], train)
        if self.pixel_head is not None:
            outputs["patch_predictions"] = self.fill_patches(batch, text.get("text_tokens"), train)
        if self.caption_decoder is not None:
            outputs |= self.caption_decoder(
                image["image_grid"],
                batch["token_ids"],
                batch["token_mask"],
                deterministic=not train,
            )
        return outputs

    def encode_image(
        self,
        image: Float[Array, "batch height width 1"],
        train: bool = False,
        has_image: Bool[Array, " batch"] | None = None,
    ) -> Outputs:
        """Returns `image_features` [B, F], `image_grid` [B, N, C] and, if any, `image_embeddings`.

        The features are the pooled output of the encoder, before the projection; the grid holds
        the N patches or spatial cells of the image encoder, row by row. In training, rows without
        an image do not enter the statistics of the batch.
        """
        image = self._with_channels(image)
        encoding = self.image_encoder(image, train, has_image=has_image)
        grid = _flat_grid(encoding.grid)
        features = encoding.features
        if self.shared_fusion:
            assert self.fusion is not None
            fused = self.fusion(grid, None, deterministic=not train)
            features = _pool(fused.cls, fused.image, None, self.image_pooling)
        outputs = {
            "image_features": features.astype(jnp.float32),
            "image_grid": grid.astype(jnp.float32),
        }
        if self.image_projection is not None:
            outputs["image_embeddings"] = normalize(self.image_projection(features))
        return outputs

    def encode_text(
        self,
        token_ids: Int[Array, "batch length"],
        token_mask: Bool[Array, "batch length"],
        train: bool = False,
    ) -> Outputs:
        """Returns `text_tokens` [B, L, C], the encoder's output, and, if any, `text_embeddings`."""
        assert self.text_encoder is not None
        tokens = self.text_encoder(token_ids, token_mask, deterministic=not train)
        outputs = {"text_tokens": tokens.astype(jnp.float32)}
        if self.text_projection is not None:
            features = pool_tokens(tokens, token_mask, pooling=self.text_pooling)
            if self.shared_fusion:
                assert self.fusion is not None
                fused = self.fusion(None, tokens, token_mask=token_mask, deterministic=not train)
                features = _pool(fused.cls, fused.text, token_mask, self.text_pooling)
            outputs["text_embeddings"] = normalize(self.text_projection(features))
        return outputs

    def fill_tokens(
        self,
        batch: Mapping[str, Array],
        image_grid: Float[Array, "batch patches channels"],
        train: bool = False,
    ) -> Float[Array, "batch length vocabulary"]:
        """The logits of every token of `masked_token_ids`, with the image where it is in view."""
        assert self.text_encoder is not None
        assert self.fusion is not None and self.language_head is not None
        tokens = self.text_encoder(
            batch["masked_token_ids"], batch["token_mask"], deterministic=not train
        )
        fused = self.fusion(
            image_grid,
            tokens,
            token_mask=batch["token_mask"],
            image_in_view=batch["image_in_view"] & batch["has_image"],
            deterministic=not train,
        )
        assert fused.text is not None
        return self.language_head(fused.text, self.text_encoder.word_embeddings())

    def fill_patches(
        self,
        batch: Mapping[str, Array],
        text_tokens: Float[Array, "batch length channels"] | None,
        train: bool = False,
    ) -> Float[Array, "batch patches pixels"]:
        """The pixels of every patch, seen where `patch_is_masked` is false, and the text if any."""
        assert self.fusion is not None and self.pixel_head is not None
        masked = batch["patch_is_masked"]
        encoding = self.image_encoder(
            self._with_channels(batch["image"]), train, masked, self.num_visible
        )
        fused = self.fusion(
            _flat_grid(encoding.grid),
            text_tokens,
            token_mask=None if text_tokens is None else batch["token_mask"],
            text_in_view=batch["text_in_view"] & batch["has_text"],
            patch_is_masked=masked,
            deterministic=not train,
        )
        assert fused.image is not None
        return self.pixel_head(fused.image)

    def match(self, image: Outputs, text: Outputs) -> Float[Array, " pairs"]:
        """The matching logit of each image with the text of the same row.

        Args:
            image: outputs of `encode_image`.
            text: outputs of `encode_text`, and `token_mask`.
        """
        return self.judge(image, text)["match_logits"]

    def draw_pairs(self, batch: Mapping[str, Array], outputs: Outputs) -> Pairs:
        """See `PairMatching.draw`; needs the "negatives" key."""
        assert self.matching is not None
        return self.matching.draw(batch, outputs)

    def pair_sides(
        self,
        batch: Mapping[str, Array],
        outputs: Outputs,
        image_rows: Int[Array, " pairs"],
        text_rows: Int[Array, " pairs"],
    ) -> tuple[Outputs, Outputs]:
        """What `judge` reads of the images and of the texts of these rows."""
        image_keys, text_keys = self.pair_inputs
        text = {key: outputs[key][text_rows] for key in text_keys}
        text["token_mask"] = batch["token_mask"][text_rows]
        return {key: outputs[key][image_rows] for key in image_keys}, text

    @property
    def pair_inputs(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The outputs for images and for texts from which a pair is judged."""
        assert self.matching is not None
        if self.fusion is not None and self.matching.margin is None:
            return ("image_grid",), ("text_tokens",)
        return ("image_embeddings",), ("text_embeddings",)

    def judge(self, image: Outputs, text: Outputs, train: bool = False) -> Outputs:
        """`match_logits`, and with a margin `match_similarities`, of rows of pairs."""
        assert self.matching is not None
        return self.matching.judge(image, text, self.fusion, train)

    def caption_log_likelihood(
        self,
        image_grid: Float[Array, "pairs patches channels"],
        token_ids: Int[Array, "pairs length"],
        token_mask: Bool[Array, "pairs length"],
    ) -> Float[Array, " pairs"]:
        """The mean log-likelihood of a text's tokens, read forwards, given the image of its row."""
        assert self.caption_decoder is not None
        outputs = self.caption_decoder(image_grid, token_ids, token_mask, deterministic=True)
        logits, targets, mask = outputs["caption_logits"], token_ids[:, 1:], token_mask[:, 1:]
        chosen = jnp.take_along_axis(logits, targets[:, :, None], axis=-1)[:, :, 0]
        likelihood = jnp.where(mask, chosen - jax.nn.logsumexp(logits, axis=-1), 0.0)
        return likelihood.sum(axis=1) / jnp.maximum(mask.sum(axis=1), 1)

    def start_caption(
        self, image_grid: Float[Array, "batch patches channels"], max_length: int
    ) -> Cache:
        """See `CaptionDecoder.start`."""
        assert self.caption_decoder is not None
        return self.caption_decoder.start(image_grid, max_length)

    def extend_caption(
        self, cache: Cache, token_ids: Int[Array, " batch"], position: Int[Array, ""]
    ) -> tuple[Float[Array, "batch vocabulary"], Cache]:
        """See `CaptionDecoder.step`."""
        assert self.caption_decoder is not None
        return self.caption_decoder.step(cache, token_ids, position)

    def scalars(self) -> Outputs:
        """Returns `temperature` and, if the model has one, `bias`."""
        if self.learn_temperature:
            outputs = {"temperature": jnp.exp(self.log_temperature)}
        else:
            outputs = {"temperature": jnp.float32(self.initial_temperature)}
        if self.initial_bias is not None:
            outputs["bias"] = self.bias
        return outputs

    def _with_channels(
        self, image: Float[Array, "batch height width 1"]
    ) -> Float[Array, "batch height width channels"]:
        return jnp.broadcast_to(image, (*image.shape[:-1], self.image_channels))


def _flat_grid(
    grid: Float[Array, "batch rows columns channels"],
) -> Float[Array, "batch patches channels"]:
    return grid.reshape(grid.shape[0], -1, grid.shape[-1])


def _pool(
    cls: Float[Array, "batch channels"],
    tokens: Float[Array, "batch length channels"] | None,
    mask: Bool[Array, "batch length"] | None,
    pooling: Pooling,
) -> Float[Array, "batch channels"]:
    if pooling == "cls" or tokens is None:
        return cls
    return pool_tokens(tokens, mask, pooling=pooling)
