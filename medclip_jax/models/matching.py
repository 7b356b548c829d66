"""Image-text matching: which pairs of a batch to judge, and how a pair is judged."""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medclip_jax.models.fusion import FusionTransformer
from medclip_jax.models.heads import MatchingHead, pair_features
from medclip_jax.models.negatives import allowed_negatives, draw_negatives

NEGATIVES = ("random", "label_aware", "hard")


class Pairs(NamedTuple):
    """Images and texts of a batch to judge, and what is true of them.

    Attributes:
        mask: false where there was nothing to draw.
    """

    image_rows: Int[Array, " pairs"]
    text_rows: Int[Array, " pairs"]
    is_match: Bool[Array, " pairs"]
    mask: Bool[Array, " pairs"]

    def targets(self) -> dict[str, Array]:
        """The outputs `is_match` and `match_mask`."""
        return {"is_match": self.is_match, "match_mask": self.mask}


class PairMatching(nn.Module):
    """Judges the pairs of a batch and as many false ones.

    Attributes:
        negatives: how the false ones are drawn, never from siblings: "random"; "label_aware", never
            a report with the same labels (MedViLL); or "hard", the more often the more similar the
            embeddings are (ALBEF, arXiv 2107.07651).
        hidden_size: of the matching head.
        margin: judges by the distance of the embeddings instead of by a head; a pair matches if it
            is less than half the margin.
    """

    negatives: str = "random"
    hidden_size: int = 512
    margin: float | None = None

    def setup(self) -> None:
        """Creates the head, where there is one."""
        if self.margin is None:
            self.head = MatchingHead(self.hidden_size)

    def draw(self, batch: Mapping[str, Array], outputs: Mapping[str, Array]) -> "Pairs":
        """The B pairs of a batch, then one false pair a row.

        Even rows keep their image and draw a text, odd rows keep their text and draw an image;
        rows that are not pairs neither draw nor are drawn.

        Args:
            batch: has `has_image`, `has_text` and `group_ids`, and `labels` where they count.
            outputs: `temperature`, and where similar rows are drawn more often the embeddings.
        """
        pair = batch["has_image"] & batch["has_text"]
        allowed = allowed_negatives(
            batch["group_ids"],
            labels=batch["labels"] if self.negatives == "label_aware" else None,
            row_ok=pair,
            column_ok=pair,
        )
        text, text_exists, image, image_exists = self._draw(allowed, outputs)
        rows = jnp.arange(pair.shape[0])
        even = rows % 2 == 0
        return Pairs(
            image_rows=jnp.concatenate([rows, jnp.where(even, rows, image)]),
            text_rows=jnp.concatenate([rows, jnp.where(even, text, rows)]),
            is_match=jnp.concatenate([jnp.ones_like(pair), jnp.zeros_like(pair)]),
            mask=jnp.concatenate([pair, jnp.where(even, text_exists, image_exists)]),
        )

    def judge(
        self,
        image: Mapping[str, Array],
        text: Mapping[str, Array],
        fusion: FusionTransformer | None,
        train: bool,
    ) -> dict[str, Array]:
        """Judges each image with the text of the same row.

        Args:
            image: `image_grid` if a fusion judges, else `image_embeddings`.
            text: `text_tokens` and `token_mask` if a fusion judges, else `text_embeddings`.
            fusion: the transformer over both, if there is one.
            train: whether there is dropout.

        Returns:
            `match_logits`, above 0 is a match; and with a margin `match_similarities`, the cosines.
        """
        judged = {"match_logits": self._logits(image, text, fusion, train)}
        if self.margin is not None:
            judged["match_similarities"] = _cosines(image, text)
        return judged

    def _logits(
        self,
        image: Mapping[str, Array],
        text: Mapping[str, Array],
        fusion: FusionTransformer | None,
        train: bool,
    ) -> Float[Array, " pairs"]:
        """The logit of each image with the text of the same row; above 0 is a match."""
        if self.margin is not None:
            squared = jnp.maximum(2.0 - 2.0 * _cosines(image, text), 0.0)
            return self.margin / 2 - jax.lax.stop_gradient(jnp.sqrt(squared))
        if fusion is None:
            # Of unit length, the entries would be too small for the head to tell apart.
            scale = jnp.sqrt(jnp.float32(image["image_embeddings"].shape[-1]))
            features = pair_features(
                image["image_embeddings"] * scale, text["text_embeddings"] * scale
            )
        else:
            features = fusion(
                image["image_grid"],
                text["text_tokens"],
                token_mask=text["token_mask"],
                deterministic=not train,
            ).cls
        return self.head(features)

    def _draw(
        self, allowed: Array, outputs: Mapping[str, Array]
    ) -> tuple[Array, Array, Array, Array]:
        """For each image a text, for each text an image, and whether there is any."""
        text_key, image_key = jax.random.split(self.make_rng("negatives"))
        similarity = None
        if self.negatives == "hard":
            embeddings = outputs["image_embeddings"], outputs["text_embeddings"]
            similarity = jax.lax.stop_gradient(embeddings[0] @ embeddings[1].T)
        temperature = jax.lax.stop_gradient(outputs["temperature"])
        text, text_exists = draw_negatives(
            text_key, allowed=allowed, similarity=similarity, temperature=temperature
        )
        transposed = None if similarity is None else similarity.T
        image, image_exists = draw_negatives(
            image_key, allowed=allowed.T, similarity=transposed, temperature=temperature
        )
        return text, text_exists, image, image_exists


def _cosines(image: Mapping[str, Array], text: Mapping[str, Array]) -> Float[Array, " pairs"]:
    return jnp.einsum("nd,nd->n", image["image_embeddings"], text["text_embeddings"])
