"""The `finetune` task: a classifier of the labels from the image encoder, all layers trained.

The recipe is in `finetune_training`. Each image of a study is an example with the study's labels; a
study's score is the mean probability of its images. The random initialisation is trained by the
same recipe; raw pixels, which have no layers to train, are scored by linear probe.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from medclip_jax.data.augment import Augmentation
from medclip_jax.errors import UserError
from medclip_jax.evaluate.bootstrap import PIXELS
from medclip_jax.evaluate.classification import ClassificationMetrics
from medclip_jax.evaluate.encode import Studies, baselines, study_means
from medclip_jax.evaluate.finetune_training import (
    ClassifierState,
    FinetuneSettings,
    FinetuneTrainer,
)
from medclip_jax.evaluate.image_squares import ImageSquares
from medclip_jax.evaluate.label_budgets import Budgets, ScoreSubset, add_budgets
from medclip_jax.evaluate.label_scoring import of_each, score_studies
from medclip_jax.evaluate.label_subsets import LabelSubset, budget_name
from medclip_jax.evaluate.labelled_splits import LabelledSplits
from medclip_jax.evaluate.raw_pixels import RAW_PIXELS_PROTOCOL, RawPixels
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult
from medclip_jax.inference import Encoder

StudyMask = Bool[np.ndarray, "studies"]


@dataclasses.dataclass(frozen=True)
class FinetuneRun:
    """The scores of the studies to report on, and how training went, epoch by epoch."""

    scores: Float[np.ndarray, "studies labels"]
    history: list[dict[str, float]]


class FineTuning:
    """Fine-tunes encoders on a labelled set; images and compiled programs serve every run."""

    def __init__(self, data: LabelledSplits, settings: FinetuneSettings):
        self._data, self._settings = data, settings
        self._trainers: dict[str, FinetuneTrainer] = {}
        self._squares: dict[tuple[str, int], ImageSquares] = {}
        num_images = len(data.tables["train"].image_study)
        if settings.batch_size > max(FinetuneSettings.batch_size, num_images):
            raise UserError(
                f"--batch-size {settings.batch_size} is more than the {num_images} training images"
            )

    def run(self, encoder: Encoder, subset: LabelSubset) -> FinetuneRun:
        """Trains a copy of the encoder on the labels of a subset."""
        data, trainer = self._data, self._trainer(encoder)
        size = encoder.config.data.image_size
        split, studies = data.validation
        validation_labels = data.tables[split].labels[studies]

        def score(state: ClassifierState, split: str, studies: StudyMask) -> np.ndarray:
            table = data.tables[split].subset(studies)
            images = np.flatnonzero(studies[data.tables[split].image_study])
            values = trainer.predict(state, self._split_squares(split, size), images)
            return study_means(values, table.image_study, len(table.study_ids))

        def validate(state: ClassifierState) -> float:
            scores = score(state, split, studies)
            metrics = ClassificationMetrics(scores, validation_labels, data.label_names)
            return metrics(np.ones(len(scores)))["macro_auroc"]

        train = data.tables["train"]
        labels = train.labels[train.image_study]
        is_known = ~np.isnan(labels).all(axis=1)
        images = np.flatnonzero(subset.studies[train.image_study] & is_known)
        squares = self._split_squares("train", size)
        state, history = trainer.fit(
            encoder.variables, squares, images, labels[images], validate, subset.seed
        )
        reported = np.ones(len(data.report.study_ids), bool)
        return FinetuneRun(score(state, data.report_split, reported), history)

    def _trainer(self, encoder: Encoder) -> FinetuneTrainer:
        """One for all encoders of the same architecture."""
        vocab_size = encoder.tokenizer.vocab_size
        key = f"{vocab_size} {encoder.config.to_json()}"
        if key not in self._trainers:
            self._trainers[key] = FinetuneTrainer(
                encoder.model,
                Augmentation.from_config(encoder.config.augmentation),
                len(self._data.label_names),
                self._settings,
            )
        return self._trainers[key]

    def _split_squares(self, split: str, size: int) -> ImageSquares:
        if (split, size) not in self._squares:
            studies, table = self._data.studies[split], self._data.tables[split]
            self._squares[split, size] = ImageSquares(studies, table, size)
        return self._squares[split, size]


def evaluate(
    encoder: Encoder,
    open_studies: Callable[[str], Studies],
    request: Request,
    settings: FinetuneSettings | None = None,
) -> EvaluationResult:
    """Trains on `train`, keeps the epoch that is best on `validation`, reports on the split.

    Where there is no validation split, or it is the one reported on, a random fifth of the training
    patients is validated on and not trained on. With `request.fractions` subsets of the other
    training studies are trained on besides; see `label_budgets.add_budgets`.

    Raises:
        UserError: a split is missing, has no labels, or shares a patient with another; a budget
            is not possible.
    """
    settings = settings or FinetuneSettings.from_request(request)
    data = LabelledSplits.open(open_studies, request)
    budgets = Budgets.draw(data, request.fractions, request) if request.fractions else None
    tuning = FineTuning(data, settings)
    encoders = {"": encoder} | baselines(encoder, request.seed)
    # Remembered, since the runs with all labels may be among those of the budgets.
    runs = {
        prefix: functools.cache(functools.partial(tuning.run, start))
        for prefix, start in encoders.items()
    }
    everything = LabelSubset(budget_name(1.0), request.seed, data.fitted)
    complete = {prefix: run(everything) for prefix, run in runs.items()}
    pixels = RawPixels.compute(data)
    pixel_scores = {prefix: scores for prefix, (scores, _) in pixels.probe_all().items()}
    result = score_studies(
        data.report,
        data.label_names,
        {prefix: run.scores for prefix, run in complete.items()} | pixel_scores,
        request,
        {
            "classifier": "dropout and a linear head on the image features; all layers trained",
            "settings": dataclasses.asdict(settings),
            "validated_on": data.chosen_on,
            "aggregation": "each image is an example; mean probability of the images of a study",
            "raw_pixels": RAW_PIXELS_PROTOCOL,
            **of_each("epochs", {prefix: run.history for prefix, run in complete.items()}),
            **data.protocol(),
        },
    )
    if budgets is None:
        return result

    def scorer(prefix: str) -> ScoreSubset:
        return lambda subset: runs[prefix](subset).scores

    scorers = {prefix: scorer(prefix) for prefix in runs} | {PIXELS: pixels.probe_subset}
    return add_budgets(result, data, budgets, request, scorers)
