"""The fourteen observations of CheXpert and MIMIC-CXR, and what -1 and blank mean."""

import math
from collections.abc import Mapping

from medclip_jax.errors import UserError

# Irvin et al., arXiv 1901.07031, table 1. Tables must be read by these names and never by position:
# MIMIC-CXR has them in alphabetical order.
CHEXPERT_LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
POLICY_HELP = "what -1 means: ignore, zeros, ones, mixed, or per class: Edema=ones,Pneumonia=zeros"
_POLICIES = {"ignore": math.nan, "zeros": 0.0, "ones": 1.0}
# The policy of each competition label that did best in CheXpert's validation, as GLoRIA and others
# after it use them.
_MIXED = "Atelectasis=ones,Edema=ones,Pleural Effusion=ones,Cardiomegaly=zeros,Consolidation=zeros"


def uncertain_values(policy: str) -> dict[str, float]:
    """What -1 becomes for each label: 1, 0 or NaN (unknown).

    Args:
        policy: "ignore", "zeros" or "ones" (U-Ignore, U-Zeros, U-Ones of arXiv 1901.07031), "mixed"
            (ones for Atelectasis, Edema and Pleural Effusion, zeros for Cardiomegaly and
            Consolidation), or "LABEL=POLICY,…"; labels that are not named are ignored.

    Raises:
        UserError: the policy or a label in it is unknown.
    """
    if policy in _POLICIES:
        return dict.fromkeys(CHEXPERT_LABELS, _POLICIES[policy])
    values = dict.fromkeys(CHEXPERT_LABELS, math.nan)
    for part in (_MIXED if policy == "mixed" else policy).split(","):
        label, _, chosen = (word.strip() for word in part.partition("="))
        if label not in values or chosen not in _POLICIES:
            raise UserError(
                f"{part!r} is no policy for uncertain labels; give ignore, zeros, ones, mixed, or "
                "LABEL=POLICY,… with the labels of CheXpert"
            )
        values[label] = _POLICIES[chosen]
    return values


def label_values(
    cells: Mapping[str, str], uncertain: Mapping[str, float], blank: float
) -> tuple[float, ...] | str:
    """The labels in the order of `CHEXPERT_LABELS`, or what is wrong with the row.

    Args:
        cells: label to "1.0", "0.0", "-1.0" or "".
        uncertain: what -1 becomes, from `uncertain_values`.
        blank: what an empty cell becomes: 0, or NaN for unknown.
    """
    values = []
    for name in CHEXPERT_LABELS:
        cell = cells.get(name, "")
        try:
            number = float(cell) if cell else math.nan
        except ValueError:
            number = math.inf
        if math.isnan(number):
            values.append(blank)
        elif number == -1:
            values.append(uncertain[name])
        elif number in (0, 1):
            values.append(number)
        else:
            return f"label {name} is {cell!r}; it must be 1, 0, -1 or empty"
    return tuple(values)
