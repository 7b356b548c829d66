"""F1 of the findings that generated reports state, per label, macro and micro, on weighted rows."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float


class ClinicalF1:
    """Counts which findings are stated, and which should be.

    A label occurs if a row has it. Where a weighting loses all rows that have a label that occurs,
    its F1 and the macro mean are NaN, so that the mean is always over the same labels. Where no
    label occurs, there is nothing to find, and all figures are NaN.
    """

    def __init__(
        self,
        stated: Bool[np.ndarray, "rows labels"],
        labels: Float[np.ndarray, "rows labels"],
        label_names: Sequence[str],
        name: str = "clinical_f1",
    ):
        """Compares row by row.

        Args:
            stated: Whether a report states the finding; denied, in doubt and unmentioned are not.
            labels: 1 present, 0 absent; rows with NaN (unknown) are left out of that label.
            label_names: Names of the columns.
            name: What the figures are called.
        """
        present, known = labels > 0.5, ~np.isnan(labels)
        self._found = (stated & present).astype(np.float64)
        self._stated = (stated & known).astype(np.float64)
        self._present = present.astype(np.float64)
        self.label_names = tuple(label_names)
        self.occurs = present.any(axis=0)
        self.name = name

    def __call__(self, weights: Float[np.ndarray, "rows"]) -> dict[str, float]:
        """`NAME` (macro, over the labels that occur), `NAME_micro` (all), and `NAME/LABEL`."""
        found, stated, present = (
            weights @ counts for counts in (self._found, self._stated, self._present)
        )
        # F1 is 2 TP / (2 TP + FP + FN), and stated + present counts the true positives twice.
        values = np.full(len(found), np.nan)
        np.divide(2 * found, stated + present, out=values, where=present > 0)
        total = stated.sum() + present.sum()
        metrics = {
            self.name: float(np.mean(values[self.occurs])) if self.occurs.any() else np.nan,
            f"{self.name}_micro": float(2 * found.sum() / total) if present.any() else np.nan,
        }
        return metrics | {
            f"{self.name}/{label}": float(value)
            for label, value in zip(self.label_names, values, strict=True)
        }
