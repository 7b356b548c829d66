"""The `label-efficiency` task: AUROC against the number of labelled studies, and labels saved.

The encoder, its random initialisation and any other checkpoint are trained at the same label
budgets, by linear probe or fine-tuning, on the same subsets; raw pixels by linear probe only.
`labels_to_match_random@MODE` is the number of labelled studies at which an encoder's curve reaches
what the random initialisation reaches with all of them, `label_reduction@MODE` the per cent of
labels that this saves.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from medclip_jax.evaluate.bootstrap import IMPROVEMENTS, PIXELS, RANDOM, TITLES
from medclip_jax.evaluate.encode import Studies, baselines, with_batch_size
from medclip_jax.evaluate.finetune import FineTuning
from medclip_jax.evaluate.finetune_training import FinetuneSettings
from medclip_jax.evaluate.frozen_features import FrozenFeatures
from medclip_jax.evaluate.label_budgets import (
    Budgets,
    MacroAurocs,
    ScoreSubset,
    bootstrap_with_seeds,
    budgets_protocol,
)
from medclip_jax.evaluate.label_curve import (
    Curve,
    LabelsToMatch,
    draw_curves,
    label_reduction,
    labels_to_match,
)
from medclip_jax.evaluate.label_subsets import write_index_lists
from medclip_jax.evaluate.labelled_splits import LabelledSplits
from medclip_jax.evaluate.raw_pixels import RAW_PIXELS_PROTOCOL, RawPixels
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import CHANCE, EvaluationResult, figures_go_on
from medclip_jax.inference import Encoder, load

DEFAULT_BUDGETS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
COMPARE = "compare/"
FIGURE = "label_efficiency.png"


@dataclasses.dataclass(frozen=True)
class Efficiency:
    """The runs of every mode and encoder, and the figures that follow from them.

    Attributes:
        budgets: The budgets; the last is all labels.
        aurocs: Of each mode the macro AUROC of the runs by the prefix of an encoder's figures: ""
            is the encoder itself, `RANDOM` the baseline, the others are those to compare with.
    """

    budgets: Budgets
    aurocs: Mapping[str, Mapping[str, MacroAurocs]]

    def curves(
        self, weights: Float[np.ndarray, "studies"], seeds: Int[np.ndarray, "seeds"]
    ) -> dict[str, dict[str, Curve]]:
        """The curves by mode and prefix, on weighted studies and chosen seeds."""
        num_studies = self.budgets.num_studies[:, seeds].astype(np.float64)
        return {
            mode: {
                prefix: Curve(num_studies, run(weights)[:, seeds]) for prefix, run in runs.items()
            }
            for mode, runs in self.aurocs.items()
        }

    def figures(
        self, weights: Float[np.ndarray, "studies"], seeds: Int[np.ndarray, "seeds"]
    ) -> dict[str, float]:
        """All figures; where a curve never reaches the baseline, the labels are infinite."""
        figures: dict[str, float] = {}
        for mode, curves in self.curves(weights, seeds).items():
            means = {prefix: curve.aurocs.mean(axis=1) for prefix, curve in curves.items()}
            means |= {
                improvement: means[""] - means[prefix]
                for prefix, improvement in IMPROVEMENTS.items()
                if prefix in means
            }
            for prefix, values in means.items():
                for name, mean in zip(self.budgets.names, values, strict=True):
                    figures[f"{prefix}macro_auroc@{name}@{mode}"] = float(mean)
            for prefix, match in matches(curves).items():
                all_labels = curves[prefix].num_studies[-1].mean()
                figures[f"{prefix}labels_to_match_random@{mode}"] = match.labels
                reduction = label_reduction(match.labels, all_labels)
                figures[f"{prefix}label_reduction@{mode}"] = reduction
        return figures

    def censored_figures(
        self, weights: Float[np.ndarray, "studies"], seeds: Int[np.ndarray, "seeds"]
    ) -> dict[str, float]:
        """`figures` for the bootstrap: a curve that never reaches the baseline needs all labels.

        That is the least that it can need, so an interval that ends at all labels, or at a
        reduction of 0 %, is open there. Without those resamples it would be too narrow.
        """
        all_labels = float(self.budgets.num_studies[-1].mean())
        return {
            name: np.maximum(value, 0.0)
            if "label_reduction@" in name
            else np.minimum(value, all_labels)
            if "labels_to_match_random@" in name
            else value
            for name, value in self.figures(weights, seeds).items()
        }


def matches(curves: Mapping[str, Curve]) -> dict[str, LabelsToMatch]:
    """Where each encoder's curve reaches the baseline's last point, by prefix."""
    target = curves[RANDOM].aurocs[-1].mean()
    return {
        prefix: labels_to_match(curve.num_studies.mean(axis=1), curve.aurocs.mean(axis=1), target)
        for prefix, curve in curves.items()
        if prefix != RANDOM
    }


def evaluate(
    encoder: Encoder,
    open_studies: Callable[[str], Studies],
    request: Request,
    settings: FinetuneSettings | None = None,
) -> EvaluationResult:
    """Trains at the budgets of `request.fractions` and at all labels, in each of `request.modes`.

    Splits, validation and reports are those of `linear-probe` and `finetune`. The figure and the
    index lists go to `request.folder`.

    Raises:
        UserError: a split is missing, has no labels, or shares a patient with another; a budget or
            a checkpoint is not there.
    """
    settings = settings or FinetuneSettings.from_request(request)
    data = LabelledSplits.open(open_studies, request)
    budgets = Budgets.draw(data, {*(request.fractions or DEFAULT_BUDGETS), 1.0}, request)
    write_index_lists(request.folder / "subsets", budgets.subsets, data.tables["train"])
    encoders = {"": encoder} | baselines(encoder, request.seed)
    others = {
        name: with_batch_size(load(path), request) for name, path in _names(request.compare).items()
    }
    encoders |= {f"{COMPARE}{name}/": other for name, other in others.items()}
    scores = _score_all(encoders, data, budgets, request.modes, settings)
    aurocs = {
        mode: {
            prefix: MacroAurocs(values, data.report.labels, data.label_names)
            for prefix, values in by_encoder.items()
        }
        for mode, by_encoder in scores.items()
    }
    efficiency = Efficiency(budgets, aurocs)
    found = bootstrap_with_seeds(
        efficiency.censored_figures, data.report.patient_ids, len(budgets.seeds), request
    )
    everything = np.ones(len(data.report.study_ids)), np.arange(len(budgets.seeds))
    metrics = {
        name: value if np.isfinite(value) else np.nan
        for name, value in efficiency.figures(*everything).items()
    }
    chance = {CHANCE + name: 0.5 for name in metrics if name.startswith("macro_auroc@")}
    curves = efficiency.curves(*everything)
    with figures_go_on(request.folder / FIGURE):
        _draw(curves, request.folder / FIGURE)
    return EvaluationResult(
        metrics=metrics | chance,
        confidence_intervals=found.intervals,
        num_examples=len(data.report.study_ids),
        num_patients=data.report.num_patients,
        protocol=_protocol(curves)
        | {
            "finetune_settings": dataclasses.asdict(settings),
            "compared_weights": {
                name: {"step": other.step, "hash": getattr(other, "weights_hash", None)}
                for name, other in others.items()
            },
            "raw_pixels": RAW_PIXELS_PROTOCOL,
            "label_budgets": budgets_protocol(data, budgets, found),
            **data.protocol(),
        },
        arrays=_arrays(data, budgets, scores),
    )


def _score_all(
    encoders: Mapping[str, Encoder],
    data: LabelledSplits,
    budgets: Budgets,
    modes: Sequence[str],
    settings: FinetuneSettings,
) -> dict[str, dict[str, Float[np.ndarray, "budgets seeds studies labels"]]]:
    """The scores of every run by mode and prefix."""

    def scorer(mode: str, model: Encoder, title: str) -> ScoreSubset:
        if mode == "finetune":
            return lambda subset: tuning.run(model, subset).scores
        features = FrozenFeatures.compute(model.image_features, data, f", {title}")
        return lambda subset: features.probe_subset(subset)[0]

    tuning = FineTuning(data, settings)
    pixels = budgets.score(RawPixels.compute(data).probe_subset, _title(PIXELS))
    return {
        mode: {
            prefix: budgets.score(scorer(mode, model, _title(prefix)), f"{mode}, {_title(prefix)}")
            for prefix, model in encoders.items()
        }
        | {PIXELS: pixels}
        for mode in modes
    }


def _draw(curves: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    named = {
        mode: {_title(prefix): curve for prefix, curve in by_prefix.items()}
        for mode, by_prefix in curves.items()
    }
    reached = {mode: matches(by_prefix)[""] for mode, by_prefix in curves.items()}
    draw_curves(named, reached, path)


def _protocol(curves: Mapping[str, Mapping[str, Curve]]) -> dict[str, Any]:
    return {
        "curves": {
            mode: {_title(prefix): _curve_protocol(curve) for prefix, curve in by_prefix.items()}
            for mode, by_prefix in curves.items()
        },
        "labels_to_match_random": {
            mode: {
                _title(prefix): _match_protocol(match)
                for prefix, match in matches(by_prefix).items()
            }
            for mode, by_prefix in curves.items()
        },
        "curve": "isotonic regression of the mean over seeds, linear in the log of the labels",
        "censoring": "a resample that never reaches the baseline counts as needing all labels",
    }


def _arrays(
    data: LabelledSplits, budgets: Budgets, scores: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    arrays = data.report.arrays() | {
        "label_names": np.array(data.label_names, np.str_),
        "labels": data.report.labels,
        "num_labelled_studies": budgets.num_studies,
    }
    for mode, by_prefix in scores.items():
        arrays |= {f"{prefix}scores@{mode}": values for prefix, values in by_prefix.items()}
    return arrays


def _curve_protocol(curve: Curve) -> dict[str, Any]:
    several = curve.aurocs.shape[1] > 1
    return {
        "studies": curve.num_studies,
        "macro_auroc": curve.aurocs,
        "mean": curve.aurocs.mean(axis=1),
        "standard_deviation": curve.aurocs.std(axis=1, ddof=1) if several else None,
    }


def _match_protocol(match: LabelsToMatch) -> dict[str, Any]:
    return {
        "is_reached": bool(np.isfinite(match.labels)),
        "is_upper_bound": match.is_upper_bound,
    }


def _title(prefix: str) -> str:
    """The name of an encoder from the prefix of its figures."""
    fixed = TITLES | {"": "this checkpoint"}
    return fixed.get(prefix) or prefix.removeprefix(COMPARE).removesuffix("/")


def _names(checkpoints: Sequence[Path]) -> dict[str, Path]:
    """Each checkpoint by its folder's name, or by its path where names are equal."""
    names = [path.absolute().name for path in checkpoints]
    return {
        name if names.count(name) == 1 else str(path): path
        for name, path in zip(names, checkpoints, strict=True)
    }
