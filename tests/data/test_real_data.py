"""Real chest X-rays and reports, where they are: `../shared/data` or `$MEDCLIP_JAX_REAL_DATA`."""

import collections
import csv
import json
import pathlib
import re
import tarfile

import numpy as np
from support.real_data import real

from medclip_jax.data import build, datasets, images, reports


def read_csv(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_pairs(tmp_path: pathlib.Path) -> None:
    folder = real("pairs")
    rows = read_csv(folder / "pairs.csv")
    build.build_manifest(
        "pairs", folder / "pairs.csv", folder, labels_from="labels", data_dir=tmp_path
    )
    assert len((tmp_path / "manifest" / "pairs" / "rejected.csv").read_text().splitlines()) == 1
    for split in ("train", "validation"):
        expected = collections.defaultdict(list)
        for row in rows:
            if row["split"] == split:
                expected[row["patient_id"], row["study_id"]].append(row)
        opened = datasets.open_split("manifest/pairs", split, tmp_path)
        assert len(opened) == len(expected)
        for study in opened:
            own = expected[study.patient_id, study.study_id]
            assert len(study.images) == len(own)
            assert all(row["text"].strip() in study.report for row in own)
            assert reports.report_sentences(study.report)
            present = set().union(*(row["labels"].split("|") for row in own)) - {""}
            positive = np.flatnonzero(study.labels == 1)
            assert {opened.label_names[index] for index in positive} == present
            assert min(images.decode_gray(study.images[0]).shape) <= 256


def test_nih_as_a_manifest(tmp_path: pathlib.Path) -> None:
    folder = real("nih_chestxray14")
    rows = read_csv(folder / "Data_Entry_2017.csv")
    assert len(rows[0]) == 11  # two names of the header hold a comma
    test_images = set((folder / "test_list.txt").read_text().split())
    manifest = tmp_path / "nih.jsonl"
    with manifest.open("w") as file:
        for row in rows:
            line = {
                "image_path": f"images/{row['Image Index']}",
                "labels": row["Finding Labels"].split("|"),
                "patient_id": row["Patient ID"],
                "study_id": row["Image Index"],
                "view": row["View Position"],
                "split": "test" if row["Image Index"] in test_images else "train",
            }
            file.write(json.dumps(line) + "\n")
    build.build_manifest("nih", manifest, folder, labels_from="labels", data_dir=tmp_path)
    positives, shown = collections.Counter(), 0
    for split in ("train", "test"):
        opened = datasets.open_split("manifest/nih", split, tmp_path)
        for study in opened:
            shown += 1
            assert (study.study_id in test_images) == (split == "test")
            positives.update(np.array(opened.label_names)[study.labels == 1].tolist())
    assert shown == len(rows)
    assert positives == collections.Counter(
        label for row in rows for label in row["Finding Labels"].split("|")
    )


def test_openi_reports_split_into_sentences() -> None:
    archive = real("openi") / "NLMCXR_reports.tgz"
    pattern = re.compile(r'<AbstractText Label="(\w+)">(.*?)</AbstractText>', re.DOTALL)
    empty, sentences, decimals, whole_decimals = 0, [], 0, 0
    with tarfile.open(archive) as files:
        for member in files:
            if not member.name.endswith(".xml"):
                continue
            sections = pattern.findall(files.extractfile(member).read().decode())
            report = "\n".join(f"{label}: {text}" for label, text in sections)
            own = reports.report_sentences(report)
            sentences += own
            empty += not own
            text = reports.select_sections(report)
            decimals += len(re.findall(r"\d\.\d", text))
            split = reports.split_sentences(text)
            whole_decimals += sum(len(re.findall(r"\d\.\d", sentence)) for sentence in split)
    assert empty == 28  # reports with neither findings nor impression
    assert len(sentences) > 20_000
    assert whole_decimals == decimals > 50
    assert not [sentence for sentence in sentences if re.search(r"\b(Dr|vs|e\.g)\.$", sentence)]
