"""Nested subsets of the training studies at label budgets, drawn alike for every encoder.

For one seed the patients stand in one order, and a budget takes as many from its front as come
nearest to its number of studies: whole patients only, and a smaller subset lies within a larger
one. The order is a greedy stratification in two parts:

1. Few studies that show every class (each label present, and absent): again and again the patient
   with the most and rarest classes not yet seen for its number of studies, as in greedy set cover.
2. Then the patient, of a pool of candidates in random order, after whom the numbers of studies with
   each class are nearest to their shares of the whole (the sum of squares, each in units of its
   expected size, as in chi-square), which also makes up for what the first part took too often.

It follows iterative stratification (Sechidis et al., ECML PKDD 2011) in filling quotas of labels
one example at a time; the order in place of folds is what makes the subsets nested.
"""

import csv
import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from medclip_jax.errors import UserError
from medclip_jax.evaluate.encode import StudyTable
from medclip_jax.evaluate.result import figures_go_on

_POOL_SIZE = 64


@dataclasses.dataclass(frozen=True)
class LabelSubset:
    """The training studies whose labels a run may use.

    Attributes:
        budget: Name of the budget: "1%" of the studies, or their number.
        seed: Seed of the draw, and of the run.
        studies: Whether each study of the training table is in it.
    """

    budget: str
    seed: int
    studies: Bool[np.ndarray, "studies"] = dataclasses.field(compare=False, repr=False)

    @property
    def num_studies(self) -> int:
        """How many studies it has."""
        return int(self.studies.sum())


def draw_subsets(
    table: StudyTable,
    available: Bool[np.ndarray, "studies"],
    budgets: Iterable[float],
    seeds: Sequence[int],
) -> list[LabelSubset]:
    """A subset of each budget and seed, the smallest budget first, within it seed by seed.

    Args:
        table: The training studies with the labels to stratify by.
        available: Which of them may be drawn; a share is one of these.
        budgets: A share of the studies up to 1, a number of studies above.
        seeds: One order of the patients each.

    Raises:
        UserError: a budget is not above 0, or above the number of studies.
    """
    rows = np.flatnonzero(available)
    sizes = {budget: _num_studies(budget, len(rows)) for budget in sorted(set(budgets))}
    patients, patient_of_row = np.unique(np.asarray(table.patient_ids)[rows], return_inverse=True)
    by_budget: dict[float, list[LabelSubset]] = {budget: [] for budget in sizes}
    for seed in seeds:
        order = patient_order(patient_of_row, table.labels[rows], seed)
        rank = np.empty(len(patients), int)
        rank[order] = np.arange(len(order))
        studies_until = np.cumsum(np.bincount(patient_of_row)[order])
        for budget, size in sizes.items():
            num_patients = 1 + int(np.argmin(np.abs(studies_until - size)))
            studies = np.zeros(len(available), bool)
            studies[rows[rank[patient_of_row] < num_patients]] = True
            by_budget[budget].append(LabelSubset(budget_name(budget), seed, studies))
    return [
        subset for budget in sorted(sizes, key=sizes.__getitem__) for subset in by_budget[budget]
    ]


def budget_name(budget: float) -> str:
    """`1%` for 0.01, `500` for 500."""
    return f"{100 * budget:g}%" if budget <= 1 else f"{budget:g}"


def patient_order(
    patient_of_study: Int[np.ndarray, "studies"],
    labels: Float[np.ndarray, "studies labels"],
    seed: int,
) -> Int[np.ndarray, "patients"]:
    """The patients in the order in which budgets take them; see the top of this file.

    Args:
        patient_of_study: Number of each study's patient, from 0 without gaps.
        labels: 1 present, 0 absent, NaN unknown.
        seed: Seed of the random order that decides among equals.
    """
    classes = np.concatenate([labels > 0.5, labels <= 0.5], axis=1)  # NaN is in neither
    classes = classes[:, classes.any(axis=0)]
    sizes = np.bincount(patient_of_study)
    counts = np.zeros((len(sizes), classes.shape[1]))
    np.add.at(counts, patient_of_study, classes)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    first = _cover(counts, sizes, shuffled)
    rest = shuffled[~np.isin(shuffled, first)]
    return np.array([*first, *_fill(counts, sizes, first, rest)], int)


def _cover(
    counts: Float[np.ndarray, "patients classes"],
    sizes: Int[np.ndarray, "patients"],
    shuffled: Int[np.ndarray, "patients"],
) -> list[int]:
    """Patients who together show every class, by the new classes a study, rare ones weighing more.

    A class that few have is needed in any case, and who has it often shows common ones too.
    """
    chosen: list[int] = []
    rarity = 1 / np.count_nonzero(counts, axis=0)
    missing = np.ones(counts.shape[1], bool)
    while missing.any():
        gains = (counts > 0) @ (rarity * missing) / sizes
        chosen.append(int(shuffled[np.argmax(gains[shuffled])]))
        missing &= counts[chosen[-1]] == 0
    return chosen


def _fill(
    counts: Float[np.ndarray, "patients classes"],
    sizes: Int[np.ndarray, "patients"],
    first: Sequence[int],
    rest: Int[np.ndarray, "rest"],
) -> list[int]:
    """The other patients, each time the one who keeps the classes nearest to their shares."""
    shares = counts.sum(axis=0) / sizes.sum()
    taken, num_taken = counts[list(first)].sum(axis=0), sizes[list(first)].sum()
    pool, waiting = list(rest[:_POOL_SIZE]), iter(rest[_POOL_SIZE:])
    chosen: list[int] = []
    while pool:
        # One study of a class is right however rare it is.
        quotas = np.maximum(1.0, (num_taken + sizes[pool])[:, None] * shares)
        scale = np.maximum(1.0, (num_taken + 1) * shares)
        misfits = np.sum((taken + counts[pool] - quotas) ** 2 / scale, axis=1)
        best = pool.pop(int(np.argmin(misfits)))
        taken, num_taken = taken + counts[best], num_taken + sizes[best]
        chosen.append(int(best))
        pool.extend(itertools.islice(waiting, 1))
    return chosen


def write_index_lists(folder: Path, subsets: Sequence[LabelSubset], table: StudyTable) -> None:
    """Writes `BUDGET-seed-SEED.csv` with `study_id,patient_id` of every subset to a folder."""
    with figures_go_on(folder):
        folder.mkdir(exist_ok=True)
        for subset in subsets:
            _write_index_list(folder, subset, table)


def _write_index_list(folder: Path, subset: LabelSubset, table: StudyTable) -> None:
    name = subset.budget.replace("%", "-percent")
    with (folder / f"{name}-seed-{subset.seed}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study_id", "patient_id"])
        writer.writerows(
            (table.study_ids[row], table.patient_ids[row]) for row in np.flatnonzero(subset.studies)
        )


def _num_studies(budget: float, available: int) -> int:
    if not 0 < budget <= max(1, available):
        raise UserError(
            f"a label budget of {budget:g} is not possible: give a share up to 1, or a number "
            f"up to the {available} training studies"
        )
    return max(1, round(budget * available if budget <= 1 else budget))
