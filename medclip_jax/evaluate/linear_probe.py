"""The `linear-probe` task: logistic regression on frozen image features, one a label.

Features are those before the projection; `frozen_features` says how the probes are fitted. At a
label budget the probe is fitted to a subset of the training studies, and the penalty chosen on the
same validation studies.
"""

from collections.abc import Callable
from typing import Any

from medclip_jax.evaluate.bootstrap import PIXELS, TITLES
from medclip_jax.evaluate.encode import ImageTextEncoder, Studies, baselines
from medclip_jax.evaluate.frozen_features import FrozenFeatures
from medclip_jax.evaluate.label_budgets import Budgets, ScoreSubset, add_budgets
from medclip_jax.evaluate.label_scoring import of_each, score_studies
from medclip_jax.evaluate.labelled_splits import LabelledSplits
from medclip_jax.evaluate.logistic_regression import INVERSE_PENALTIES
from medclip_jax.evaluate.raw_pixels import RAW_PIXELS_PROTOCOL, RawPixels
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult


def evaluate(
    encoder: ImageTextEncoder, open_studies: Callable[[str], Studies], request: Request
) -> EvaluationResult:
    """Trains on `train`, chooses the penalty on `validation`, reports on the request's split.

    Where there is no validation split, or it is the one reported on, the penalty is chosen on a
    fifth of the training patients, and the probe is then fitted to all of them.

    With `request.fractions` the probe is also fitted to subsets of the labels; see
    `label_budgets.add_budgets`. Their budgets are shares of the studies that are not held out, and
    the probe of a subset is fitted to nothing else. A label with one class in a subset gets the
    same score for every study, an AUROC of one half.

    Raises:
        UserError: a split is missing, has no labels, or shares a patient with another; a budget
            is not possible.
    """
    data = LabelledSplits.open(open_studies, request)
    budgets = Budgets.draw(data, request.fractions, request) if request.fractions else None
    features = {"": FrozenFeatures.compute(encoder.image_features, data)} | {
        prefix: FrozenFeatures.compute(baseline.image_features, data, f", {TITLES[prefix]}")
        for prefix, baseline in baselines(encoder, request.seed).items()
    }
    pixels = RawPixels.compute(data)
    probed = {prefix: frozen.probe_all() for prefix, frozen in features.items()}
    probed |= pixels.probe_all()
    result = score_studies(
        data.report,
        data.label_names,
        {prefix: scores for prefix, (scores, _) in probed.items()},
        request,
        _protocol(data)
        | of_each("chosen", {prefix: chosen for prefix, (_, chosen) in probed.items()}),
    )
    if budgets is None:
        return result

    def scorer(frozen: FrozenFeatures) -> ScoreSubset:
        return lambda subset: frozen.probe_subset(subset)[0]

    scorers = {prefix: scorer(frozen) for prefix, frozen in features.items()}
    scorers |= {PIXELS: pixels.probe_subset}
    return add_budgets(result, data, budgets, request, scorers)


def _protocol(data: LabelledSplits) -> dict[str, Any]:
    return {
        "features": "image encoder, before the projection; standardised on the training rows",
        "classifier": "logistic regression (scikit-learn, L-BFGS to convergence), one a label",
        "inverse_penalties": INVERSE_PENALTIES,
        "penalty_chosen_on": data.chosen_on,
        "final_fit_on": "train",
        "aggregation": "each image is a row; mean probability of the images of a study",
        "raw_pixels": RAW_PIXELS_PROTOCOL,
        **data.protocol(),
    }
