"""L2-regularised logistic regression over a range of strengths, each fit to convergence."""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from medclip_jax.finite import require_finite

# Inverse strengths of the L2 penalty on standardised features, strongest penalty first.
INVERSE_PENALTIES = tuple(10.0**exponent for exponent in range(-6, 3))
_TOLERANCE = 1e-6  # of the largest entry of the mean loss's gradient
_MAX_ITERATIONS = 20_000


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """A fitted probe: probability = sigmoid(features @ coefficients + intercept)."""

    coefficients: Float[np.ndarray, "features"]
    intercept: float
    inverse_penalty: float
    converged: bool

    def __call__(self, features: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows"]:
        """The probability of each row, float64."""
        logits = features @ self.coefficients + self.intercept
        return np.exp(-np.logaddexp(0.0, -logits))


def fit_probes(
    features: Float[np.ndarray, "rows features"],
    targets: Bool[np.ndarray, "rows"],
    inverse_penalties: Sequence[float] = INVERSE_PENALTIES,
) -> list[LinearProbe]:
    """Minimises sum(log loss) + |w|^2 / (2 C) on standardised features, for each C.

    Features are standardised with their own mean and deviation, which the returned probes carry
    in their coefficients. The intercept is not penalised. The problem is convex with one minimum,
    so starting each fit from the last changes its speed only.

    Args:
        features: One row an image.
        targets: Whether each has the finding; both classes must be there.
        inverse_penalties: The values of C, ascending.

    Raises:
        UserError: a feature is not finite.
    """
    require_finite(features, "features to fit to")
    features = np.asarray(features, np.float64)
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation[deviation < 1e-12 * np.maximum(1.0, np.abs(mean))] = 1.0  # constant features
    standardized = (features - mean) / deviation
    model = LogisticRegression(tol=_TOLERANCE, max_iter=_MAX_ITERATIONS, warm_start=True)
    probes = []
    for inverse_penalty in inverse_penalties:
        # A step is two small products: threads would wait for one another far longer than compute.
        with warnings.catch_warnings(record=True) as caught, threadpool_limits(limits=1):
            warnings.simplefilter("always", ConvergenceWarning)
            model.set_params(C=inverse_penalty).fit(standardized, targets)
        failed = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        coefficients = model.coef_[0] / deviation
        intercept = float(model.intercept_[0] - coefficients @ mean)
        probes.append(LinearProbe(coefficients, intercept, inverse_penalty, not failed))
    return probes
