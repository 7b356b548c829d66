"""CheXpert's observations from the MeSH terms that readers gave to the Indiana reports."""

import math
import re
from collections.abc import Sequence

from medclip_jax.data.chexpert_labels import CHEXPERT_LABELS

# Which terms stand for an observation: the mentions that CheXpert's labeler (arXiv 1901.07031)
# counts to it, in the vocabulary of these reports. Terms are like "Opacity/lung/base/left".
_PATTERNS = {
    "No Finding": r"normal$",
    "Enlarged Cardiomediastinum": r"Mediastinum/.*(?:enlarged|prominent)",
    "Cardiomegaly": r"Cardiomegaly|(?:Cardiac Shadow|Heart)/.*enlarged",
    "Lung Opacity": r"Airspace Disease|Infiltrate|(?:Opacity|Density)/.*lung",
    "Lung Lesion": r"(?:Nodule|Mass)\b",
    "Edema": r"Pulmonary Edema|Pulmonary Congestion|Heart Failure",
    "Consolidation": r"Consolidation",
    "Pneumonia": r"Pneumonia\b",
    "Atelectasis": r"Pulmonary Atelectasis",
    "Pneumothorax": r"(?:Hydro|Hemo)?pneumothorax",
    "Pleural Effusion": r"Pleural Effusion|Hydropneumothorax|Hemo(?:pneumo)?thorax",
    "Pleural Other": r"Pleura/|(?:Thickening|Fibrosis|Calcinosis|Cicatrix)/.*pleura",
    "Fracture": r"Fractures, Bone",
    "Support Devices": r"Catheters, Indwelling|Tube, Inserted|(?:Implanted )?Medical Device|Stents",
}
_TERMS = [re.compile(_PATTERNS[name], re.IGNORECASE) for name in CHEXPERT_LABELS]


def mesh_labels(terms: Sequence[str]) -> tuple[float, ...]:
    """The labels in the order of `CHEXPERT_LABELS`: 1 where a term stands for it, else 0.

    All are NaN where the readers gave no terms ("No Indexing").
    """
    if not terms or any(term.startswith("No Indexing") for term in terms):
        return (math.nan,) * len(CHEXPERT_LABELS)
    return tuple(float(any(map(pattern.match, terms))) for pattern in _TERMS)
