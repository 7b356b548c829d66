"""The errors of regenerated pixels by scale and ratio, beside those of the baselines."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from medclip_jax.evaluate.bootstrap import RANDOM
from medclip_jax.evaluate.encode import MaskedEncoder, Studies, StudyTable, image_blocks
from medclip_jax.evaluate.regeneration_baselines import (
    INPAINTING_RADIUS,
    inpainting,
    visible_mean,
)
from medclip_jax.evaluate.regeneration_errors import ERRORS, MAX_PSNR, masked_errors
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult, summarize

WITH_REPORT, WITHOUT_REPORT = "with_report", "without_report"
BASELINES = {"visible_mean": visible_mean, "inpainting": inpainting}
REDUCTION = "error_reduction_vs_"

Errors = Float[np.ndarray, "images conditions errors"]


@dataclasses.dataclass(frozen=True)
class PatchMasks:
    """For each pair of a scale and a ratio the hidden patches of every image.

    Attributes:
        grid: Rows and columns of patches.
        conditions: The scales and ratios, in the order of the masks.
        masks: True on a hidden patch.
    """

    grid: tuple[int, int]
    conditions: tuple[tuple[int, float], ...]
    masks: Bool[np.ndarray, "conditions images patches"]

    @classmethod
    def draw(cls, grid: tuple[int, int], num_images: int, request: Request) -> "PatchMasks":
        """Draws them by the request's scales, ratios and seed.

        Raises:
            UserError: a scale or a ratio does not fit the grid.
        """
        import jax

        from medclip_jax.data.masking import PatchMasking, mask_patches

        conditions = tuple((scale, ratio) for scale in request.scales for ratio in request.ratios)
        maskings = [PatchMasking(*grid, (scale,), (ratio,)) for scale, ratio in conditions]
        keys = jax.random.split(jax.random.key(request.seed), len(maskings))
        drawn = [
            np.asarray(mask_patches(key, num_images, masking))
            for key, masking in zip(keys, maskings, strict=True)
        ]
        return cls(grid, conditions, np.stack(drawn))

    def pixels(
        self, masks: Bool[np.ndarray, "images patches"], size: int
    ) -> Bool[np.ndarray, "images size size"]:
        """Masks of patches as masks of the pixels of a view."""
        rows, columns = self.grid
        grids = masks.reshape(-1, rows, columns)
        return grids.repeat(size // rows, axis=1).repeat(size // columns, axis=2)

    def names(self) -> list[str]:
        """What the figures of each condition are called."""
        return [f"scale_{scale}/ratio_{ratio:g}" for scale, ratio in self.conditions]


class PixelErrors:
    """Errors of some methods for weighted studies, and how far they are under the baselines'."""

    def __init__(
        self,
        errors: Mapping[str, Errors],
        reported: Sequence[str],
        condition_names: Sequence[str],
        image_study: Int[np.ndarray, "images"],
    ):
        self.methods = list(errors)
        self.reported = tuple(reported)
        self.condition_names = tuple(condition_names)
        self.image_study = image_study
        self.errors = np.stack(list(errors.values()), axis=1)

    def __call__(self, weights: Float[np.ndarray, "studies"]) -> dict[str, float]:
        """`error_reduction_vs_BASELINE`, `ERROR/METHOD` and `ERROR/METHOD/CONDITION`.

        An image weighs as its study does. The reduction is 1 minus the ratio of the mean MSE, for
        the first reported method.
        """
        image_weights = weights[self.image_study]
        means = np.tensordot(image_weights, self.errors, axes=1) / image_weights.sum()
        overall = means.mean(axis=1)
        mse = dict(zip(self.methods, overall[:, ERRORS.index("mse")], strict=True))
        metrics = {
            REDUCTION + name: _reduction(mse[self.reported[0]], mse[name]) for name in BASELINES
        }
        for values, suffixes in ((overall[:, None], [""]), (means, self._suffixes())):
            for method in self.reported:
                for suffix, row in zip(suffixes, values[self.methods.index(method)], strict=True):
                    for error, value in zip(ERRORS, row, strict=True):
                        metrics[f"{error}/{method}{suffix}"] = float(value)
        return metrics

    def _suffixes(self) -> list[str]:
        return [f"/{name}" for name in self.condition_names]


def _reduction(error: float, of_baseline: float) -> float:
    """Undefined where the baseline makes no error, as on images of one grey."""
    return float(1 - error / of_baseline) if of_baseline else np.nan


def evaluate_pixels(
    encoder: MaskedEncoder,
    studies: Studies,
    table: StudyTable,
    masks: PatchMasks,
    with_report: bool,
    request: Request,
) -> EvaluationResult:
    """Measures the encoder, its random initialisation and the baselines on the same masks."""
    methods = [WITH_REPORT, WITHOUT_REPORT] if with_report else [WITHOUT_REPORT]
    random = encoder.randomly_initialized(request.seed)
    errors = _measure(encoder, random, studies, table, masks, methods)
    baselines = {name: errors[name] for name in BASELINES}
    names, image_study = masks.names(), table.image_study
    trained_errors = {name: errors[name] for name in methods} | baselines
    random_errors = {name: errors[RANDOM + name] for name in methods} | baselines
    metrics, intervals, bootstrap = summarize(
        PixelErrors(trained_errors, [*methods, *BASELINES], names, image_study),
        {RANDOM: PixelErrors(random_errors, methods, names, image_study)},
        {},
        table.patient_ids,
        headline=[REDUCTION + name for name in BASELINES],
        num_resamples=request.num_resamples,
        seed=request.seed,
    )
    return EvaluationResult(
        metrics=metrics,
        confidence_intervals=intervals,
        num_examples=len(table.study_ids),
        num_patients=table.num_patients,
        protocol=_protocol(table, masks, methods) | bootstrap,
        arrays=table.arrays()
        | {f"errors_{name.replace('/', '_')}": values for name, values in errors.items()}
        | {"error_names": np.array(ERRORS), "condition_names": np.array(names)},
    )


def _measure(
    encoder: MaskedEncoder,
    random: MaskedEncoder,
    studies: Studies,
    table: StudyTable,
    masks: PatchMasks,
    methods: Sequence[str],
) -> dict[str, Errors]:
    """The errors of every image, for all methods of both encoders and for the baselines."""
    shape = (len(table.image_study), len(masks.conditions), len(ERRORS))
    names = [*methods, *(RANDOM + name for name in methods), *BASELINES]
    errors = {name: np.zeros(shape) for name in names}
    for rows, images in image_blocks(studies, table, "regenerate images"):
        views = encoder.view(images)
        texts = [table.texts[study] for study in table.image_study[rows]]
        reports = {WITH_REPORT: texts, WITHOUT_REPORT: None}
        for number, mask in enumerate(masks.masks[:, rows]):
            is_masked = masks.pixels(mask, views.shape[1])
            # Generators, because a block of images takes hundreds of megabytes for each method.
            baselines = ((name, fill(views, is_masked)) for name, fill in BASELINES.items())
            regenerated = (
                (prefix + name, model.regenerate(images, mask, reports[name]))
                for prefix, model in (("", encoder), (RANDOM, random))
                for name in methods
            )
            for name, made in chain(baselines, regenerated):
                errors[name][rows, number] = masked_errors(views, made, is_masked)
    return errors


def _protocol(table: StudyTable, masks: PatchMasks, methods: Sequence[str]) -> dict[str, Any]:
    return {
        "pixels": "errors of masked pixels only, grey from 0 to 1; every image of every study, "
        "as the model sees it, its padding included",
        "masks": "blocks of scale x scale patches in random places until the ratio of the patches "
        "is masked; the same for all methods",
        "conditions": masks.names(),
        "patch_grid": masks.grid,
        "averages": "mean over images, then over scales and ratios",
        "psnr": f"of each image's own MSE, peak 1, at most {MAX_PSNR:g} dB",
        "ssim": "Gaussian window of 11 x 11 pixels, sigma 1.5; mean of the map over masked pixels",
        "error_reduction": f"1 - MSE / MSE of the baseline, {methods[0].replace('_', ' ')}",
        "visible_mean": "mean of the visible pixels of the image",
        "inpainting": f"OpenCV, Telea, radius {INPAINTING_RADIUS:g} pixels, 8 bits",
        "num_images": len(table.image_study),
        "studies_without_text": sum(not text for text in table.texts),
    }
