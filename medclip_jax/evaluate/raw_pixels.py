"""What a linear probe reaches from raw pixels alone: the control that tells a shortcut.

Exposure, collimation or the kind of patient may give a label away to a thumbnail in which no
radiologist could read it. A figure of an encoder that is no better than that of the thumbnails
says nothing about what the encoder learnt.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from medclip_jax.data.images import decode_gray, fit_square
from medclip_jax.evaluate.bootstrap import PIXELS
from medclip_jax.evaluate.frozen_features import FrozenFeatures, Probed, Rows
from medclip_jax.evaluate.label_subsets import LabelSubset
from medclip_jax.evaluate.labelled_splits import LabelledSplits

SIDES = (8, 16)  # of the thumbnails; the last is a multiple of the others
RAW_PIXELS_PROTOCOL = (
    "linear probe on padded squares of 8 x 8 and of 16 x 16 pixels; the side with the better mean "
    "validation AUROC counts"
)


@dataclasses.dataclass(frozen=True)
class RawPixels:
    """The thumbnails of every image by their side, and the probes on them.

    Of the sides the one with the better mean validation AUROC counts.
    """

    by_side: Mapping[int, FrozenFeatures]

    @classmethod
    def compute(cls, data: LabelledSplits) -> Self:
        """Decodes all images."""
        largest = FrozenFeatures.compute(_thumbnails, data, ", raw pixels")
        return cls({side: _shrunk(largest, side) for side in SIDES})

    def probe_all(self) -> dict[str, Probed]:
        """`FrozenFeatures.probe_all` of the better side at `PIXELS`, of each at its own prefix."""
        return self._probe(FrozenFeatures.probe_all)

    def probe_subset(self, subset: LabelSubset) -> Float[np.ndarray, "studies labels"]:
        """The scores of the better side by probes that know the labels of a subset."""
        return self._probe(lambda features: features.probe_subset(subset))[PIXELS][0]

    def _probe(self, probe_fn: Callable[[FrozenFeatures], Probed]) -> dict[str, Probed]:
        probed = {side: probe_fn(features) for side, features in self.by_side.items()}
        best = max(SIDES, key=lambda side: _validation_auroc(probed[side][1]))
        return {PIXELS: probed[best]} | {_prefix(side): probed[side] for side in SIDES}


def _thumbnails(images: Sequence[bytes]) -> Float[np.ndarray, "images pixels"]:
    """Every image as a padded square of `SIDES[-1]` pixels a side, row by row, from 0 to 1."""
    squares = [fit_square(decode_gray(image), SIDES[-1]) for image in images]
    return np.stack(squares).reshape(len(images), -1).astype(np.float32) / 255


def _shrunk(features: FrozenFeatures, side: int) -> FrozenFeatures:
    """The same thumbnails with `side` pixels a side, each the mean of those it covers."""
    block = SIDES[-1] // side

    def shrink(rows: Rows) -> Rows:
        blocks = rows.features.reshape(-1, side, block, side, block)
        return Rows(blocks.mean(axis=(2, 4)).reshape(len(blocks), -1), rows.table)

    shrunk = {split: shrink(rows) for split, rows in features.rows.items()}
    return dataclasses.replace(features, rows=shrunk)


def _validation_auroc(chosen: Mapping[str, Mapping[str, Any]]) -> float:
    """The mean over the labels that validation can score."""
    return float(np.nanmean([label["validation_auroc"] for label in chosen.values()]))


def _prefix(side: int) -> str:
    return f"{PIXELS}{side}x{side}/"
