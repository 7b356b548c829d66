"""Classifiers trained at label budgets: a run a budget and seed, their AUROC, and its interval.

Runs of one seed use nested subsets (see `label_subsets`), and every encoder uses the same ones. An
interval says how the figure varies with the patients reported on and, where there are several
seeds, with the labels drawn: each resample draws patients and seeds with replacement.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from medclip_jax.errors import UserError
from medclip_jax.evaluate.bootstrap import IMPROVEMENTS, TITLES, Intervals, bootstrap_intervals
from medclip_jax.evaluate.classification import ClassificationMetrics
from medclip_jax.evaluate.label_scoring import array_prefix, of_each
from medclip_jax.evaluate.label_subsets import LabelSubset, draw_subsets, write_index_lists
from medclip_jax.evaluate.labelled_splits import LabelledSplits
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import CHANCE, EvaluationResult

# From a subset of the training studies to the scores of the studies to report on.
ScoreSubset = Callable[[LabelSubset], Float[np.ndarray, "studies labels"]]
# From weights of the studies and the positions of the seeds to named figures.
Figures = Callable[[Float[np.ndarray, "studies"], Int[np.ndarray, "seeds"]], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Budgets:
    """The subsets of every budget and seed.

    Attributes:
        names: Of each budget, the smallest first.
        seeds: The seeds of the draws.
        subsets: All of the first budget, seed by seed, then of the next.
    """

    names: list[str]
    seeds: list[int]
    subsets: list[LabelSubset]

    @classmethod
    def draw(cls, data: LabelledSplits, fractions: Iterable[float], request: Request) -> "Budgets":
        """Draws the subsets of `fractions` with `request.num_seeds` seeds from `request.seed` on.

        Raises:
            UserError: a budget is not possible, or there is no seed.
        """
        if request.num_seeds < 1:
            raise UserError("label budgets need one seed or more: give --num-seeds 1 or above")
        seeds = [request.seed + number for number in range(request.num_seeds)]
        subsets = draw_subsets(data.tables["train"], data.fitted, fractions, seeds)
        names = list(dict.fromkeys(subset.budget for subset in subsets))
        return cls(names, seeds, subsets)

    @property
    def num_studies(self) -> Int[np.ndarray, "budgets seeds"]:
        """The number of labelled studies of each subset."""
        return self._by_seed([subset.num_studies for subset in self.subsets])

    def score(
        self, score_subset: ScoreSubset, description: str
    ) -> Float[np.ndarray, "budgets seeds studies labels"]:
        """The scores of every run."""
        bar = tqdm(self.subsets, desc=description, unit="run", disable=None)
        return self._by_seed([score_subset(subset) for subset in bar])

    def _by_seed(self, values: Sequence[Any]) -> np.ndarray:
        stacked = np.stack(values)
        return stacked.reshape(len(self.names), len(self.seeds), *stacked.shape[1:])


class MacroAurocs:
    """The macro AUROC of every run."""

    def __init__(
        self,
        scores: Float[np.ndarray, "budgets seeds studies labels"],
        labels: Float[np.ndarray, "studies labels"],
        label_names: Sequence[str],
    ):
        self._runs = [
            [ClassificationMetrics(run, labels, label_names) for run in runs] for runs in scores
        ]

    def __call__(self, weights: Float[np.ndarray, "studies"]) -> Float[np.ndarray, "budgets seeds"]:
        """NaN where the weighted studies have one class only of a label."""
        return np.array([[run(weights)["macro_auroc"] for run in runs] for runs in self._runs])


def bootstrap_with_seeds(
    figures: Figures, patients: Sequence[str], num_seeds: int, request: Request
) -> Intervals:
    """Intervals of the figures over resamples of patients and seeds, drawn together."""
    generator = np.random.default_rng([request.seed, num_seeds])

    def resampled(weights: Float[np.ndarray, "studies"]) -> Mapping[str, float]:
        return figures(weights, generator.integers(num_seeds, size=num_seeds))

    return bootstrap_intervals(resampled, patients, request.num_resamples, request.seed)


def add_budgets(
    result: EvaluationResult,
    data: LabelledSplits,
    budgets: Budgets,
    request: Request,
    scorers: Mapping[str, ScoreSubset],
) -> EvaluationResult:
    """Adds the figures at label budgets to those with all labels.

    `macro_auroc@1%` is the mean over the seeds of the macro AUROC of the runs with 1 % of the
    studies, `macro_auroc_sd@1%` its standard deviation over the seeds (where there are several),
    beside those of the baselines. The index lists go to `subsets/` of `request.folder`.

    Args:
        result: With all labels.
        data: The splits.
        budgets: The subsets.
        request: Gives the bootstrap's resamples and seed, and the folder.
        scorers: Of the trained encoder at "", and of each baseline at its prefix.
    """
    write_index_lists(request.folder / "subsets", budgets.subsets, data.tables["train"])
    scores = {
        prefix: budgets.score(scorer, f"label budgets, {TITLES.get(prefix, 'trained')}")
        for prefix, scorer in scorers.items()
    }
    aurocs = {
        prefix: MacroAurocs(values, data.report.labels, data.label_names)
        for prefix, values in scores.items()
    }

    def figures(
        weights: Float[np.ndarray, "studies"], seeds: Int[np.ndarray, "seeds"]
    ) -> dict[str, float]:
        means = {prefix: run(weights)[:, seeds].mean(axis=1) for prefix, run in aurocs.items()}
        means |= {
            improvement: means[""] - means[prefix]
            for prefix, improvement in IMPROVEMENTS.items()
            if prefix in aurocs
        }
        return {
            f"{prefix}macro_auroc@{name}": float(mean)
            for prefix, values in means.items()
            for name, mean in zip(budgets.names, values, strict=True)
        }

    patients, num_seeds = data.report.patient_ids, len(budgets.seeds)
    every_study = np.ones(len(patients))
    metrics = figures(every_study, np.arange(num_seeds))
    found = bootstrap_with_seeds(figures, patients, num_seeds, request)
    by_run = {prefix: run(every_study) for prefix, run in aurocs.items()}
    metrics |= {CHANCE + f"macro_auroc@{name}": 0.5 for name in budgets.names}
    metrics |= _deviations(by_run, budgets)
    return dataclasses.replace(
        result,
        metrics=result.metrics | metrics,
        confidence_intervals=result.confidence_intervals | found.intervals,
        protocol=result.protocol
        | {
            "label_budgets": budgets_protocol(data, budgets, found) | of_each("macro_auroc", by_run)
        },
        arrays=result.arrays
        | {f"budget_{array_prefix(prefix)}scores": values for prefix, values in scores.items()},
    )


def budgets_protocol(data: LabelledSplits, budgets: Budgets, found: Intervals) -> dict[str, Any]:
    """What is to be recorded of the subsets and of the intervals over them."""
    return {
        "budgets": budgets.names,
        "seeds": budgets.seeds,
        "drawn_from_studies": int(data.fitted.sum()),
        "studies": budgets.num_studies,
        "subsets": "whole patients, stratified by label, nested for a seed; listed in subsets/",
        "chosen_on": f"{data.chosen_on}, the same studies at every budget",
        "intervals": "percentile bootstrap that resamples patients and seeds together",
        "resamples_dropped_as_undefined": found.undefined,
    }


def _deviations(
    by_run: Mapping[str, Float[np.ndarray, "budgets seeds"]], budgets: Budgets
) -> dict[str, float]:
    if len(budgets.seeds) < 2:
        return {}
    return {
        f"{prefix}macro_auroc_sd@{name}": float(values.std(ddof=1))
        for prefix, aurocs in by_run.items()
        for name, values in zip(budgets.names, aurocs, strict=True)
    }
