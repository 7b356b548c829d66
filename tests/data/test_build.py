"""Building manifest sets, end to end, and our other builders by name."""

import csv
import pathlib

import cv2
import numpy as np
import pytest
from support.source_tree import grey_image

from medclip_jax.data import build, datasets, images, info
from medclip_jax.data.studies import Study
from medclip_jax.errors import UserError


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    """Images `0.png` to `9.png`, grey levels 0, 20, …, and `bad.png`, which is none."""
    for number in range(10):
        image = grey_image(20 * number, 400, 300)
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    (tmp_path / "bad.png").write_bytes((tmp_path / "1.png").read_bytes()[:200])
    return tmp_path


def build_rows(
    source: pathlib.Path, write_csv, rows: list[dict[str, object]], name: str = "mine", **options
) -> str:
    manifest = write_csv(source / "manifest.csv", rows)
    return build.build_manifest(name, manifest, source, data_dir=source / "sets", **options)


def studies(source: pathlib.Path, split: str = "train") -> dict[str, Study]:
    opened = datasets.open_split("manifest/mine", split, source / "sets")
    return {study.study_id: study for study in opened}


def rejections(source: pathlib.Path) -> list[list[str]]:
    with (source / "sets" / "manifest" / "mine" / "rejected.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_rows_of_a_study_merge(source, write_csv) -> None:
    common = {"patient_id": "p", "study_id": "s"}
    rows = [
        common | {"image_path": "1.png", "text": "", "view": "pa", "A": 0, "B": -1, "C": ""},
        common | {"image_path": "2.png", "text": "First.", "view": "", "A": 1, "B": 0, "C": ""},
        common | {"image_path": "1.png", "text": "Second.", "view": "x", "A": 0, "B": "", "C": -1},
        common | {"image_path": "", "text": "First.", "view": "", "A": "", "B": "", "C": ""},
    ]
    message = build_rows(source, write_csv, rows, label_columns=["A", "B", "C"])
    assert "(studies: train 1)\nthe source lists 1 patients, 1 studies, 2 images" in message
    study = studies(source)["s"]
    assert (study.patient_id, study.report) == ("p", "First.\n\nSecond.")
    assert list(study.views) == ["PA", ""]
    decoded = [images.decode_gray(image) for image in study.images]
    assert [int(image.mean()) for image in decoded] == [20, 40]
    np.testing.assert_array_equal(study.labels, np.array([1, 0, np.nan], np.float32))


def test_stored_images_are_small_grey_jpegs(source, write_csv) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (600, 900, 3)).astype(np.uint8)
    cv2.imwrite(str(source / "large.png"), cv2.GaussianBlur(colour, (0, 0), 5))
    cv2.imwrite(str(source / "small.png"), colour[:30, :50])
    rows = [{"image_path": name, "study_id": name} for name in ("large.png", "small.png")]
    build_rows(source, write_csv, rows, options={"image_size": 100})
    for name, shape in (("large.png", (100, 150)), ("small.png", (30, 50))):
        (encoded,) = studies(source)[name].images
        assert encoded[:2] == b"\xff\xd8"
        stored = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
        assert stored.shape == shape
        expected = images.resize_short_side(images.decode_gray(source / name), 100)
        assert np.abs(stored.astype(int) - expected).mean() < 4


def test_text_only_image_only_and_no_labels(source, write_csv) -> None:
    rows = [
        {"image_path": "", "text": "Only text, ünïcode\nin two lines.", "study_id": "t"},
        {"image_path": "3.png", "text": "", "study_id": "i"},
    ]
    build_rows(source, write_csv, rows)
    text_only, image_only = studies(source)["t"], studies(source)["i"]
    assert (list(text_only.images), list(text_only.views)) == ([], [])
    assert text_only.report == "Only text, ünïcode\nin two lines."
    assert image_only.report == "" and len(image_only.images) == 1
    assert image_only.labels.shape == (0,)


def test_bad_rows_are_counted_and_listed(source, write_csv) -> None:
    rows = [{"image_path": f"{n}.png", "text": "", "split": "train"} for n in range(10)]
    rows[2]["split"] = "holdout"
    rows[4]["image_path"] = "missing.png"
    rows[7]["image_path"] = "bad.png"
    message = build_rows(source, write_csv, rows, max_rejected=0.3)
    path = source / "sets" / "manifest" / "mine" / "rejected.csv"
    assert "(studies: train 7)\n" in message
    assert message.endswith(f"images\n3 rows were rejected: {path}")
    header, *listed = rejections(source)
    assert header == ["row", "path", "reason"]
    assert [row[:2] for row in listed] == [["4", "2.png"], ["6", "missing.png"], ["9", "bad.png"]]
    assert "unknown split 'holdout'" in listed[0][2]
    assert listed[1][2] == "no such file"
    assert "not a readable image" in listed[2][2]
    levels = sorted(int(images.decode_gray(s.images[0]).mean()) for s in studies(source).values())
    assert levels == [0, 20, 60, 100, 120, 160, 180]


def test_a_study_keeps_its_readable_rows(source, write_csv) -> None:
    rows = [
        {"image_path": "bad.png", "text": "Of the bad row.", "study_id": "s"},
        {"image_path": "5.png", "text": "Of the good row.", "study_id": "s"},
    ]
    build_rows(source, write_csv, rows, max_rejected=0.5)
    study = studies(source)["s"]
    assert (len(study.images), study.report) == (1, "Of the good row.")


@pytest.mark.parametrize("bad", ["missing.png", "bad.png"])
def test_too_many_bad_rows_fail_and_leave_no_set(source, write_csv, bad: str) -> None:
    rows = [{"image_path": name} for name in ("1.png", bad, "2.png", bad)]
    with pytest.raises(
        UserError, match="2 of 4 rows were rejected .50.0%, more than the 49.0%"
    ) as e:
        build_rows(source, write_csv, rows, max_rejected=0.49)
    assert str(source / "sets" / "manifest" / "mine" / "rejected.csv") in str(e.value)
    assert [row[:2] for row in rejections(source)[1:]] == [["3", bad], ["5", bad]]
    with pytest.raises(UserError, match="not prepared"):
        studies(source)
    build_rows(source, write_csv, rows, max_rejected=0.5)  # at the limit it is built
    assert len(studies(source)) == 2


def test_a_split_without_any_usable_row_fails(source, write_csv) -> None:
    rows = [{"image_path": f"{n}.png", "split": "train"} for n in range(9)]
    rows.append({"image_path": "bad.png", "split": "test"})
    with pytest.raises(UserError, match="no row of the split test can be used.*rejected.csv"):
        build_rows(source, write_csv, rows, max_rejected=0.2)


def test_a_patient_in_two_splits_fails(source, write_csv) -> None:
    rows = [
        {"image_path": f"{n}.png", "patient_id": "p", "split": s}
        for n, s in enumerate(("train", "test"))
    ]
    with pytest.raises(UserError, match="patient 'p' is in train and test"):
        build_rows(source, write_csv, rows)


def test_building_again(source, write_csv) -> None:
    rows = [{"image_path": "1.png", "L": "1"}, {"image_path": "2.png", "L": "0"}]
    build_rows(source, write_csv, rows, label_columns=["L"])
    assert "already prepared" in build_rows(source, write_csv, rows, label_columns=["L"])
    with pytest.raises(UserError, match="another source .different: label_columns.; choose"):
        build_rows(source, write_csv, rows)
    with pytest.raises(UserError, match="different: manifest_sha256"):
        build_rows(source, write_csv, rows[:1], label_columns=["L"])
    assert len(studies(source)) == 2


def test_the_same_manifest_gives_the_same_set(source, write_csv) -> None:
    rows = [{"image_path": f"{n}.png", "study_id": f"s{n}"} for n in range(10)]
    records = []
    for name in ("one", "two"):
        build_rows(source, write_csv, rows, name=name)
        folder = source / "sets" / "manifest" / name / "1.0.0"
        records.append((folder / "manifest-train.array_record-00000-of-00001").read_bytes())
    assert records[0] == records[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a/b"}, "cannot name a set"),
        ({"name": ""}, "cannot name a set"),
        ({"name": "../up"}, "cannot name a set"),
        ({"max_rejected": 1.5}, "must be from 0 to 1"),
    ],
)
def test_arguments_that_cannot_work(source, write_csv, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_rows(source, write_csv, [{"image_path": "1.png"}], **options)


def test_a_missing_manifest(source) -> None:
    with pytest.raises(UserError, match="no.csv: cannot be read"):
        build.build_manifest("mine", source / "no.csv", source, data_dir=source / "sets")


def test_unknown_names(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        UserError, match="no set is called 'mimic'; there are: chexpert, .*openi.*manifest"
    ):
        build.build("mimic", data_dir=tmp_path)
    with pytest.raises(UserError, match="synthetic_cxr has no config 'huge'; it has: .*demo"):
        build.build("synthetic_cxr/huge", data_dir=tmp_path)


def test_builders_by_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "tiny_texts"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tiny_texts_dataset_builder.py").write_text(TINY_BUILDER)
    (package / "notes.txt").write_text("A chest radiograph.")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(build.BUILDERS, "tiny_texts", "tiny_texts.tiny_texts_dataset_builder")
    message = build.build("tiny_texts/b", manual_dir=package, data_dir=tmp_path / "s")
    assert message.startswith("tiny_texts/b is prepared in ") and "train 1" in message
    study = datasets.open_split("tiny_texts/b", "train", tmp_path / "s")[0]
    assert (study.study_id, study.report) == ("b", "A chest radiograph.")


TINY_BUILDER = """
import numpy as np
import tensorflow_datasets as tfds
from medclip_jax.data.studies import Study, study_info


class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "notes.txt"
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name, description="") for name in "ab"]

    def _info(self):
        return study_info(self, [], description="", licence="none")

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(dl_manager.manual_dir / "notes.txt")}

    def _generate_examples(self, path):
        name = self.builder_config.name
        study = Study(name, "p", [], [], path.read_text(), np.zeros(0, np.float32))
        yield name, study.to_example()
"""


def test_the_commonest_reason_is_in_the_error(source, write_csv) -> None:
    rows = [{"image_path": f"missing{n}.png", "split": "train"} for n in range(2)]
    rows += [{"image_path": "1.png", "split": s} for s in ("fold7", "fold8", "fold9", "x", "test")]
    with pytest.raises(UserError) as error:
        build_rows(source, write_csv, rows)
    assert str(error.value).startswith(
        "6 of 7 rows were rejected (85.7%, more than the 1.0% allowed), most often because: "
        "unknown split 'fold7'; it must be train, validation or test (4 of them; row 4: 1.png); "
    )


def test_one_reason_with_other_values_is_one(source, write_csv) -> None:
    rows = [{"image_path": "1.png", "split": split} for split in ("fold a", "it's", "x\n'y")]
    rows += [{"image_path": f"no\npe{n}.png", "split": "train"} for n in range(2)]
    rows += [{"image_path": "2.png", "split": "train"}]
    with pytest.raises(
        UserError, match=r"^5 of 6 rows were .*unknown split 'fold a'; .*\(3 of them"
    ):
        build_rows(source, write_csv, rows)
    with pytest.raises(
        UserError, match=r"^2 of 3 rows were .*no such file \(2 .* row 2: no pe0.png"
    ):
        build_rows(source, write_csv, rows[3:], "other")


def test_one_row_was_rejected(source, write_csv) -> None:
    rows = [{"image_path": name, "split": "train"} for name in ("1.png", "none.png")]
    with pytest.raises(UserError, match=r"^1 of 2 rows was rejected \(50.0%"):
        build_rows(source, write_csv, rows)
    assert "\n1 row was rejected: " in build_rows(source, write_csv, rows, max_rejected=0.5)


def test_what_to_know_of_a_set_is_said_first_and_last(source, write_csv, capsys) -> None:
    rows = [
        {
            "image_path": "1.png",
            "text": "INDICATION: Cough.",
            "patient_id": "007",
            "split": "train",
        },
        {"image_path": "2.png", "text": "", "patient_id": "8", "split": "train"},
        {"image_path": "1.png", "text": "Clear lungs.", "patient_id": "7", "split": "test"},
    ]
    rows = [row | {"hospital": "A"} for row in rows]
    summary = build_rows(source, write_csv, rows)
    spelling = "warning: patient '007' is in train, patient '7' in test: they differ only in"
    unused = "columns that are not used: hospital"
    said_first = capsys.readouterr().err
    described = info.describe("manifest/mine", source / "sets")
    for text in (said_first, summary, described):
        assert spelling in text and unused in text
    for text in (summary, described):
        assert "1 of 3 studies have no report" in text
        assert "warning: 1 of 2 reports give no text" in text
        assert "the first: train study row-2 of patient 007" in text
        assert (
            "warning: images that are the same as one of another split: 1 (the first: test study "
            "row-4 of patient 7, as train study row-2 of patient 007)"
        ) in text


def test_the_same_picture_in_another_file_is_found(source, write_csv) -> None:
    cv2.imwrite(str(source / "copy.tiff"), cv2.imread(str(source / "3.png")))
    rows = [{"image_path": "3.png", "split": "train"}, {"image_path": "copy.tiff", "split": "val"}]
    assert "same as one of another split: 1 (" in build_rows(source, write_csv, rows)
    rows[1]["split"] = "train"
    assert "same as one" not in build_rows(source, write_csv, rows, name="one_split")
