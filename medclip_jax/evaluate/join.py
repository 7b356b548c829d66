"""Several results of one task as one."""

from collections.abc import Mapping, Sequence
from typing import Any

from medclip_jax.evaluate.result import EvaluationResult


def join(parts: Sequence[EvaluationResult], notes: Mapping[str, Any]) -> EvaluationResult:
    """One result of all figures and arrays.

    Args:
        parts: Results whose figures have different names.
        notes: What is added to the protocol.

    Returns:
        Its counts and its protocol are those of the first part.
    """
    return EvaluationResult(
        metrics={name: value for part in parts for name, value in part.metrics.items()},
        confidence_intervals={
            name: value for part in parts for name, value in part.confidence_intervals.items()
        },
        num_examples=parts[0].num_examples,
        num_patients=parts[0].num_patients,
        protocol=parts[0].protocol | dict(notes),
        arrays={name: array for part in parts for name, array in part.arrays.items()},
    )
