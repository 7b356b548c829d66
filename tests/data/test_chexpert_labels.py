"""What -1 and blank become, by label."""

import math

import pytest

from medclip_jax.data.chexpert_labels import CHEXPERT_LABELS, label_values, uncertain_values
from medclip_jax.errors import UserError


@pytest.mark.parametrize(("policy", "value"), [("ignore", math.nan), ("zeros", 0), ("ones", 1)])
def test_one_policy_for_all(policy: str, value: float) -> None:
    values = uncertain_values(policy)
    assert list(values) == list(CHEXPERT_LABELS)
    assert all(v == value or math.isnan(v) and math.isnan(value) for v in values.values())


def test_policies_by_class() -> None:
    values = uncertain_values("Edema=ones, Pleural Effusion=zeros")
    assert values.pop("Edema") == 1 and values.pop("Pleural Effusion") == 0
    assert all(math.isnan(value) for value in values.values())


def test_the_mixed_policy_is_glorias() -> None:
    values = {name: v for name, v in uncertain_values("mixed").items() if not math.isnan(v)}
    ones = dict.fromkeys(("Atelectasis", "Edema", "Pleural Effusion"), 1)
    assert values == ones | dict.fromkeys(("Cardiomegaly", "Consolidation"), 0)


@pytest.mark.parametrize(
    "policy", ["U-Ones", "Edema=yes", "Oedema=ones", "Edema", "", "ones,zeros"]
)
def test_unknown_policies(policy: str) -> None:
    with pytest.raises(UserError, match="is no policy for uncertain labels; give ignore, zeros"):
        uncertain_values(policy)


@pytest.mark.parametrize("blank", [0.0, math.nan])
def test_cells_are_found_by_name(blank: float) -> None:
    cells = dict(
        zip(sorted(CHEXPERT_LABELS), ["1.0", "0.0", "-1.0", "", "1"] + [""] * 9, strict=True)
    )
    values = dict(
        zip(CHEXPERT_LABELS, label_values(cells, uncertain_values("ones"), blank), strict=True)
    )
    first = {name: values.pop(name) for name in sorted(CHEXPERT_LABELS)[:5]}
    assert str(list(first.values())) == str([1.0, 0.0, 1.0, blank, 1.0])
    assert {str(value) for value in values.values()} == {str(blank)}


@pytest.mark.parametrize("cell", ["2", "yes", "0.5", "inf", "-2", "1.0.0"])
def test_other_values_are_named(cell: str) -> None:
    reason = label_values({"Edema": cell}, uncertain_values("ignore"), 0.0)
    assert reason == f"label Edema is {cell!r}; it must be 1, 0, -1 or empty"
