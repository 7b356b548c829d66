"""What sentences say of the findings, in a short notation: "PX0 EF1 PN?"."""

import numpy as np

from medclip_jax.evaluate.finding_extractor import extract_findings

SHORT = {
    "Enlarged Cardiomediastinum": "EC",
    "Cardiomegaly": "CM",
    "Lung Opacity": "LO",
    "Lung Lesion": "LL",
    "Edema": "ED",
    "Consolidation": "CO",
    "Pneumonia": "PN",
    "Atelectasis": "AT",
    "Pneumothorax": "PX",
    "Pleural Effusion": "EF",
    "Pleural Other": "PO",
    "Fracture": "FX",
    "Support Devices": "SD",
}
STATUS = {1.0: "1", 0.0: "0", -1.0: "?"}


def stated(text: str) -> str:
    """The findings that the extractor reads: 1 present, 0 denied, ? uncertain, others left out.

    They are in the order of CheXpert's labels; "No Finding" is not among them.
    """
    found = extract_findings(text)
    return " ".join(
        short + STATUS[found[label]] for label, short in SHORT.items() if not np.isnan(found[label])
    )


def in_order(codes: str) -> str:
    """The codes in the order in which `stated` gives them."""
    return " ".join(sorted(codes.split(), key=lambda code: list(SHORT.values()).index(code[:2])))
