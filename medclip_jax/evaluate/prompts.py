"""The prompts of zero-shot classification: two lists a label, what speaks for it and against it.

The defaults cover the labels of CheXpert, NIH ChestX-ray14 and the synthetic set. A JSON file of
one's own replaces them: {"Pneumonia": {"positive": ["pneumonia"], "negative": ["no pneumonia"]}}.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from medclip_jax.errors import UserError
from medclip_jax.zero_shot import check_prompts

# Label to the noun phrase that a report uses for it.
_FINDINGS = {
    "airspace opacity": "airspace opacity",
    "atelectasis": "atelectasis",
    "cardiomegaly": "cardiomegaly",
    "consolidation": "consolidation",
    "edema": "pulmonary edema",
    "effusion": "pleural effusion",
    "emphysema": "emphysema",
    "enlarged cardiomediastinum": "enlarged cardiomediastinum",
    "fibrosis": "pulmonary fibrosis",
    "fracture": "fracture",
    "hernia": "hiatal hernia",
    "infiltration": "infiltrate",
    "lung lesion": "lung lesion",
    "lung opacity": "lung opacity",
    "mass": "lung mass",
    "nodule": "pulmonary nodule",
    "pleural effusion": "pleural effusion",
    "pleural other": "pleural abnormality",
    "pleural thickening": "pleural thickening",
    "pneumonia": "pneumonia",
    "pneumothorax": "pneumothorax",
    "support device": "support device",
    "support devices": "support device",
}
_POSITIVE = ("{}", "there is {}", "findings consistent with {}")
_NEGATIVE = ("no {}", "there is no {}", "no evidence of {}")

# "No Finding" must not become "no No Finding": what speaks against it are findings.
_NO_FINDING = (
    (
        "no acute cardiopulmonary process",
        "no acute cardiopulmonary abnormality",
        "the lungs are clear",
        "normal chest radiograph",
    ),
    (
        "findings are present",
        "abnormal chest radiograph",
        "pleural effusion",
        "consolidation",
        "pulmonary edema",
        "cardiomegaly",
        "pneumothorax",
        "atelectasis",
    ),
)


def default_prompts(label_names: Sequence[str]) -> dict[str, tuple[list[str], list[str]]]:
    """The default prompts of the given labels; case, "_" and "-" do not matter.

    Raises:
        UserError: there are none for a label.
    """
    prompts = {}
    for label in label_names:
        key = " ".join(label.lower().replace("_", " ").replace("-", " ").split())
        if key in ("no finding", "no findings", "normal"):
            prompts[label] = (list(_NO_FINDING[0]), list(_NO_FINDING[1]))
        elif key in _FINDINGS:
            phrase = _FINDINGS[key]
            prompts[label] = (
                [template.format(phrase) for template in _POSITIVE],
                [template.format(phrase) for template in _NEGATIVE],
            )
        else:
            raise UserError(
                f"no default prompts for label {label!r}: give them with --prompts FILE.json, "
                "or leave the label out with --labels"
            )
    return prompts


def read_prompts(path: Path, label_names: Sequence[str]) -> dict[str, tuple[list[str], list[str]]]:
    """Reads a prompt file; the labels it names are those that are evaluated.

    Raises:
        UserError: the file is missing or of another form, or names a label the set does not have.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"--prompts {path}: no such file") from None
    except OSError as error:
        raise UserError(f"--prompts {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"--prompts {path}: not valid JSON in UTF-8 ({error})") from None
    form = '{"Label": {"positive": ["text", ...], "negative": ["text", ...]}, ...}'
    if not isinstance(content, dict) or not content:
        raise UserError(f"--prompts {path}: must be of the form {form}")
    prompts = {}
    for label, lists in content.items():
        if label not in label_names:
            names = ", ".join(label_names)
            raise UserError(f"--prompts {path}: no label {label!r} to evaluate; there are {names}")
        if not isinstance(lists, dict) or set(lists) != {"positive", "negative"}:
            raise UserError(f"--prompts {path}: label {label!r} must be of the form {form}")
        prompts[label] = (lists["positive"], lists["negative"])
    try:
        check_prompts(prompts)
    except UserError as error:
        raise UserError(f"--prompts {path}: {error}") from None
    return prompts
