"""What `data info` says, against counts made by hand."""

import numpy as np
import pytest

from medclip_jax.data import build, info
from medclip_jax.data.studies import Study
from medclip_jax.errors import UserError


def test_counts() -> None:
    nan = np.nan
    studies = [
        Study(
            "a", "p1", [b"1", b"2"], ["PA", ""], "The lungs are clear. No mass.", np.array([1, 0])
        ),
        Study("b", "p1", [], [], "Normal.", np.array([nan, 0])),
        Study("c", "p2", [b"3"], ["PA"], "", np.array([nan, 1])),
    ]
    counts = info.count_split(studies, num_labels=2)
    assert (counts.studies, counts.patients, counts.images) == (3, 2, 3)
    assert (counts.without_image, counts.without_text) == (1, 1)
    assert counts.words == [6, 1] and counts.sentences == [1, 1]
    assert counts.views == {"PA": 2, "unknown": 1}
    assert counts.labels.tolist() == [[1, 0, 2], [1, 2, 0]]


def test_reports_that_give_no_text_are_counted() -> None:
    texts = ["INDICATION: Cough.", "...", "", "Clear."]
    studies = [Study(text, "p", [], [], text, np.zeros(0)) for text in texts]
    counts = info.count_split(studies, num_labels=0)
    assert (counts.silent, counts.without_text) == (2, 1)


def test_description(prepared) -> None:
    text = info.describe(prepared.name, prepared.data_dir)
    rows = {tuple(line.strip().split("  ")[0].split()): line for line in text.splitlines()}
    counts = {" ".join(name): line.split()[-2:] for name, line in rows.items()}
    assert text.startswith("manifest/small, version 1.0.0, in ")
    assert counts["patients"] == counts["studies"] == ["24", "6"]
    assert counts["images"] == counts["view PA"] == ["46", "12"]
    assert counts["without image"] == counts["without text"] == ["1", "0"]
    assert rows["words", "a", "report", "(5", "%,", "median,", "95", "%)"].endswith("21, 21, 21")
    assert "Licence: " in text and "No labels." in text
    assert "Home page" not in text  # it has none
    assert counts["whose text gives nothing"] == ["0", "0"]
    assert "Rejected rows: 0" in text


def test_labels_and_rejected_rows(tmp_path, write_csv) -> None:
    rows = [{"text": f"t {n}", "labels": f"L{n % 50}|all", "split": "train"} for n in range(100)]
    rows += [{"text": "", "labels": "L1", "split": "train"}] * 2
    rows += [{"text": "x", "labels": "", "split": "holdout"}]
    manifest = write_csv(tmp_path / "manifest.csv", rows)
    options = {"labels_from": "labels", "max_rejected": 0.1, "data_dir": tmp_path}
    build.build_manifest("labels", manifest, tmp_path, **options)
    text = info.describe("manifest/labels", tmp_path)
    table = [line.split() for line in text.splitlines()]
    assert ["all", "100", "/", "0", "/", "0"] in table
    assert ["L0", "2", "/", "98", "/", "0"] in table
    assert "… and 11 labels that are present less often" in text
    assert "Rejected rows: 3 (" in text
    assert ["2", "no", "image", "and", "no", "text"] in table


@pytest.mark.parametrize("name", ["manifest/none", "openi/none", "none"])
def test_a_set_that_is_not_there(tmp_path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is not prepared"):
        info.describe(name, tmp_path)


def test_one_of_our_sets_before_it_is_there(tmp_path) -> None:
    text = info.describe("openi", tmp_path)
    for part in ("Licence: CC BY-NC-ND", "ocv080", "How to obtain", "--views-file", "not prepared"):
        assert part in text
    assert "Licence: Apache-2.0" in info.describe("synthetic_cxr/demo", tmp_path)
