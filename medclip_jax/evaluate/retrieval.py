"""The `retrieval` task: instance retrieval, and precision by class where there are query files."""

from collections.abc import Callable

from medclip_jax.errors import UserError
from medclip_jax.evaluate.class_retrieval import evaluate_queries, read_queries
from medclip_jax.evaluate.encode import (
    ImageTextEncoder,
    Studies,
    embed_with_both,
    read_table,
)
from medclip_jax.evaluate.instance_retrieval import evaluate_instances
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult


def evaluate(
    encoder: ImageTextEncoder, open_studies: Callable[[str], Studies], request: Request
) -> EvaluationResult:
    """Retrieves reports and images by one another, and images by the request's class queries.

    A set without reports has retrieval by class only.

    Raises:
        UserError: there is neither a report nor a query, or a query file is not right.
    """
    studies = open_studies(request.split)
    table = read_table(studies)
    label_names = tuple(studies.label_names)
    queries = [read_queries(path, request.image_root, label_names) for path in request.queries]
    if not any(table.texts) and not queries:
        raise UserError(
            "no study of the split has a text; give class queries with --queries FILE.csv"
        )
    both = embed_with_both(encoder, studies, table, request.seed)
    parts = [evaluate_queries(both, table, label_names, part, request) for part in queries]
    if any(table.texts):
        parts.insert(0, evaluate_instances(both, table, request))
    return _merge(parts)


def _merge(parts: list[EvaluationResult]) -> EvaluationResult:
    """One result of all figures; counts, arrays and protocol are the first part's."""
    protocol = dict(parts[0].protocol)
    if len(parts) > 1:
        protocol["class_queries"] = [part.protocol for part in parts[1:]]
    return EvaluationResult(
        metrics={name: value for part in parts for name, value in part.metrics.items()},
        confidence_intervals={
            name: value for part in parts for name, value in part.confidence_intervals.items()
        },
        num_examples=parts[0].num_examples,
        num_patients=parts[0].num_patients,
        protocol=protocol,
        arrays=parts[0].arrays,
    )
