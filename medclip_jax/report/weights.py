"""Which evaluations are of the weights that a page or a model card describes."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from medclip_jax.errors import UserError
from medclip_jax.report.run_files import Evaluation


class Weights(NamedTuple):
    """The weights of a step, told from all others by their hash."""

    step: int
    hash: str


class Chosen(NamedTuple):
    """The evaluations to show, and those of other weights."""

    shown: list[Evaluation]
    left_out: list[Evaluation]

    @property
    def note(self) -> str:
        """A line about those left out; "" if there are none."""
        if not self.left_out:
            return ""
        names = ", ".join(f"{each.name} (step {_step(each)})" for each in self.left_out)
        return f"Evaluations of other weights, left out: {len(self.left_out)}, namely {names}."


def saved_weights(workdir: Path) -> Weights | None:
    """Those that `medclip_jax.load` takes from a run.

    None if it holds none; where they cannot be read a line says why.
    """
    if not (workdir / "checkpoints").is_dir():
        return None
    # Imported here because the page of a run without a checkpoint needs no JAX.
    from medclip_jax.inference import load

    try:
        encoder = load(workdir)
    except UserError as error:
        print(
            f"the evaluations are shown without a comparison of weights: {error}", file=sys.stderr
        )
        return None
    return Weights(encoder.step, encoder.weights_hash)


def choose(evaluations: Iterable[Evaluation], weights: Weights | None) -> Chosen:
    """The evaluations of the weights, and those whose file does not tell but is of their step.

    Where the weights are unknown all are shown.
    """
    shown: list[Evaluation] = []
    left_out: list[Evaluation] = []
    for evaluation in evaluations:
        (shown if weights is None or _are_of(evaluation, weights) else left_out).append(evaluation)
    return Chosen(shown, left_out)


def _are_of(evaluation: Evaluation, weights: Weights) -> bool:
    if evaluation.weights_hash is None:
        return evaluation.step in (None, weights.step)
    return evaluation.weights_hash == weights.hash


def describe_weights(evaluation: Evaluation, weights: Weights | None) -> str:
    """Whose figures an evaluation holds, and what is not known of that."""
    words = f"weights of step {_step(evaluation)}"
    if evaluation.weights_hash is None:
        return f"{words} (recorded without a hash: they may be others of that step)"
    if weights is None:
        return f"{words} (the run holds no checkpoint that can be read, to compare them with)"
    return words


def _step(evaluation: Evaluation) -> str:
    return "unknown" if evaluation.step is None else f"{evaluation.step:,}"
