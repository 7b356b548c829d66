"""Query and candidate files in the forms in which they are published."""

import numpy as np
import pytest

from medclip_jax.errors import UserError
from medclip_jax.evaluate.class_queries import read_candidates, read_queries

LABELS = ("Edema", "Nodule", "Support Devices")


def write(path, text):
    path.write_text(text)
    return path


def make_image(root, path):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(path.encode())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Variable,Text\nHernia,x\n", "no candidate has a label 'Hernia'; there are Edema"),
        ("Class,Text\nEdema,x\n", "needs the columns"),
        ("Variable,Text\n", "needs the columns"),
        ("Variable,Path\nEdema,missing.png\n", "--image-root"),
    ],
)
def test_wrong_query_files(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_queries(write(tmp_path / "q.csv", content), None, LABELS)


def test_missing_query_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_queries(tmp_path / "none.csv", None, LABELS)


def test_query_images_lie_in_the_image_root(tmp_path):
    make_image(tmp_path, "images/a.jpg")
    queries = write(tmp_path / "query.csv", "Variable,Path\nNodule,a.jpg\n")
    found = read_queries(queries, tmp_path / "images", LABELS)
    assert (found.direction, found.classes) == ("image_to_image", ["Nodule"])
    assert found.values == [str(tmp_path / "images" / "a.jpg")]


# ConVIRT's columns, GLoRIA's (a few labels), and MedCLIP's (an index, other paths, a report).
CONVIRT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Pleural Effusion\n"
    "{0},Male,86,Frontal,AP,0.0,1.0,-1.0\n{1},Female,42,Lateral,,,,1.0\n"
)
GLORIA = "Path,Edema,Pleural Effusion\n{0},1,-1\n{1},,1\n"
MEDCLIP = (
    ",imgpath,subject_id,Edema,Pleural Effusion,report\n"
    '31735,./data/CheXpert/data/{0},patient00001-study1,1.0,-1.0,"Wet, large."\n'
    "84,./data/CheXpert/data/{1},patient00002-study1,,1.0,Fluid.\n"
)
PATHS = (
    "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg",
    "CheXpert-v1.0-small/train/patient00002/study1/view2_lateral.jpg",
)


@pytest.mark.parametrize("form", [CONVIRT, GLORIA, MEDCLIP])
def test_published_forms_of_candidates(tmp_path, form):
    for path in PATHS:
        make_image(tmp_path, path)
    found = read_candidates(write(tmp_path / "candidate.csv", form.format(*PATHS)), None)
    assert found.patient_ids == ["patient00001", "patient00002"]
    assert not {"Sex", "Age", "Path", "report", "subject_id", ""} & set(found.label_names)
    columns = [found.label_names.index(name) for name in ("Edema", "Pleural Effusion")]
    np.testing.assert_array_equal(found.labels[:, columns], [[1, -1], [np.nan, 1]])
    table = found.table()
    assert table.num_patients == 2 and table.image_study.tolist() == [0, 1]
    studies = found.read([1, 0])
    assert [study.images[0].decode() for study in studies] == [PATHS[1], PATHS[0]]


def test_candidates_lie_in_the_image_root(tmp_path):
    for path in PATHS:
        make_image(tmp_path / "elsewhere", path)
    candidates = write(tmp_path / "candidate.csv", GLORIA.format(*PATHS))
    assert len(read_candidates(candidates, tmp_path / "elsewhere")) == 2
    with pytest.raises(UserError, match="no image .*patient00001.*--image-root"):
        read_candidates(candidates, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("File,Edema\nx.jpg,1\n", "needs a header with a column Path"),
        ("Path,Edema\n", "a row for each image"),
        ("Path,Edema\nx.jpg,1\n", "x.jpg names no patient"),
        ("Path,Edema\n\xff", "cannot be read as CSV"),
    ],
)
def test_wrong_candidate_files(tmp_path, content, message):
    (tmp_path / "x.jpg").touch()
    path = tmp_path / "c.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=message) as error:
        read_candidates(path, None)
    assert "\n" not in str(error.value)


def test_missing_candidate_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_candidates(tmp_path / "none.csv", None)
