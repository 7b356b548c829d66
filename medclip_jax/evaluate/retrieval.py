"""The `retrieval` task: instance retrieval, and precision by class where there are query files.

Pairs are ranked by their embeddings, by the matching head or by the caption decoder; with the
matching head the task also says how often it is right about a pair.
"""

import functools
from collections.abc import Callable

from medclip_jax.errors import UserError
from medclip_jax.evaluate.class_queries import read_candidates, read_queries
from medclip_jax.evaluate.class_retrieval import evaluate_queries, exclusive_studies
from medclip_jax.evaluate.encode import ImageTextEncoder, Studies, read_table
from medclip_jax.evaluate.instance_retrieval import InstanceScores, evaluate_instances
from medclip_jax.evaluate.join import join
from medclip_jax.evaluate.matching_accuracy import evaluate_matching
from medclip_jax.evaluate.pair_scoring import BothScorers, scorers
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult


def evaluate(
    encoder: ImageTextEncoder, open_studies: Callable[[str], Studies], request: Request
) -> EvaluationResult:
    """Retrieves reports and images by one another, and images by the request's class queries.

    A set without reports has retrieval by class only.

    Raises:
        UserError: there is neither a report nor a query, a file of queries or candidates is not
            right, or the model lacks the part that the score comes from.
    """
    studies = open_studies(request.split)
    table = read_table(studies)
    has_text = any(table.texts)
    _check_queries(request, has_text)
    candidates = None
    if request.candidates is not None:
        candidates = read_candidates(request.candidates, request.image_root)
    label_names = (studies if candidates is None else candidates).label_names
    queries = [read_queries(path, request.image_root, label_names) for path in request.queries]

    score = functools.partial(scorers, request.score, encoder, seed=request.seed)
    parts = []
    if has_text or candidates is None:
        gallery = score(studies, table)
    if has_text:
        parts.append(_evaluate_instances(gallery, request))
    if candidates is not None:
        gallery = score(candidates, candidates.table())
    for part in queries:
        chosen = gallery
        if candidates is None:
            chosen = gallery.subset(exclusive_studies(table.labels, label_names, part.classes))
        parts.append(evaluate_queries(chosen, label_names, part, request))
    notes = {"class_queries": [part.protocol for part in parts[1:]]} if parts[1:] else {}
    return join(parts, notes)


def _check_queries(request: Request, has_text: bool) -> None:
    if request.candidates and not request.queries:
        raise UserError("--candidates is a gallery for class queries: give them with --queries")
    if not has_text and not request.queries:
        raise UserError(
            "no study of the split has a text; give class queries with --queries FILE.csv"
        )


def _evaluate_instances(both: BothScorers, request: Request) -> EvaluationResult:
    scores = InstanceScores.from_scorers(both)
    instances = evaluate_instances(scores, request)
    if request.score != "matching":
        return instances
    matching = evaluate_matching(scores, request)
    return join([instances, matching], {"matching": matching.protocol})
