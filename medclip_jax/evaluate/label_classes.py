"""Whether labels have both classes, without which nothing is learned of them, nor measured."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from medclip_jax.errors import UserError

Labels = Float[np.ndarray, "studies labels"]


def has_both_classes(labels: Float[np.ndarray, "studies"]) -> bool:
    """Whether a label is present in a study, and absent in another; NaN is neither."""
    return bool(np.any(labels > 0.5) and np.any(labels <= 0.5))


def require_both_classes(labels: Labels, label_names: Sequence[str], studies: str) -> list[str]:
    """The labels of which the studies have both classes.

    Args:
        labels: 1 present, 0 absent, NaN unknown.
        label_names: of the columns.
        studies: which they are, for the message.

    Raises:
        UserError: there is no such label.
    """
    columns = zip(label_names, labels.T, strict=True)
    found = [name for name, column in columns if has_both_classes(column)]
    if not found:
        what = "no known label" if np.isnan(labels).all() else "one class only"
        raise UserError(
            f"{studies} have {what} of {', '.join(label_names)}; name other --labels, or take "
            "another set or --split"
        )
    return found


def check_reported(labels: Labels, label_names: Sequence[str], split: str) -> None:
    """Says of which labels there will be no figures, before the work begins.

    Raises:
        UserError: there would be none of any label.
    """
    found = require_both_classes(labels, label_names, f"the studies of {split}")
    without = [name for name in label_names if name not in found]
    if without:
        print(f"no figures, for want of both classes in {split}: {', '.join(without)}")
