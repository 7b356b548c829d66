"""The page: complete, self-contained, true to the files, and silent about what is not there."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from medclip_jax.errors import UserError
from medclip_jax.report.page import write_report

VOID = {"meta", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """Collects images, headings and text; fails on tags that are not closed in order."""

    def __init__(self, content):
        super().__init__()
        self.images, self.headings, self.text, self.open, self.attributes = [], [], [], [], []
        self.feed(content)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.attributes += attributes
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("h1", "h2", "h3", "h4"):
            self.headings.append(data)

    @property
    def all_text(self):
        return " ".join("".join(self.text).split())


@pytest.fixture(scope="module")
def content(finished_run):
    path = write_report(finished_run)
    assert path == finished_run / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(content):
    return Page(content)


def test_page_needs_nothing_from_outside(content, page):
    assert "http:" not in content and "https:" not in content
    assert not re.search(r"url\(|@import|<script|<link", content)
    for name, value in page.attributes:
        if name in ("src", "href"):
            assert value.startswith("data:image/")


def test_every_picture_can_be_decoded_and_has_an_alternative_text(page):
    photographs = 0
    for image in page.images:
        assert len(image["alt"]) > 20
        kind, encoded = image["src"].removeprefix("data:image/").split(";base64,")
        data = base64.b64decode(encoded, validate=True)
        if kind == "jpeg":
            photographs += 1
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            assert pixels.shape == (176, 176) and pixels.std() > 0
        else:
            assert kind == "svg+xml" and b"<svg" in data
    # 6 text queries (6 merged texts) x 5, 4 image queries, 3 pictures of 3 kinds x 2 labels x 2.
    assert photographs == 6 * 5 + 4 + 3 * 3 * 2 * 2


def test_every_part_is_there(page):
    assert page.headings[0] == "my_run"
    wanted = ["Training", "Retrieval", "Zero-shot classification", "Linear probe", "ROC curves"]
    assert [heading for heading in wanted if heading not in page.headings] == []
    assert sum(image["src"].startswith("data:image/svg") for image in page.images) == 3


def test_figures_are_those_of_the_files(finished_run, page):
    for file in (finished_run / "evaluations").glob("*.json"):
        content = json.loads(file.read_text())
        for name, value in content["metrics"].items():
            if not name.startswith(("chance/auroc", "improvement", "chance/macro_auroc")):
                assert re.search(rf"\b{value:.1f}|{value:.3f}\b", page.all_text), name
        for low, high in content["confidence_intervals"].values():
            assert low is not None and high is not None
    metrics = json.loads(
        (finished_run / "evaluations/linear-probe-manifest_x-test.json").read_text()
    )
    value, (low, high) = (metrics[k]["macro_auroc"] for k in ("metrics", "confidence_intervals"))
    assert f"Linear-probe macro AUROC {value:.3f} 95 % CI {low:.3f} to {high:.3f}" in page.all_text
    assert "training loss 0.075, validation loss 0.250" in page.all_text
    assert "contrastive × 1" in page.all_text and "sigmoid_contrastive ×" not in page.all_text


def test_marks_of_matches_are_right(finished_run, page):
    with np.load(finished_run / "evaluations/retrieval-manifest_x-test.npz") as arrays:
        found = arrays["text_to_image_neighbors"]
        text_of_image = arrays["text_of_study"][arrays["image_study"]]
        right = int((text_of_image[found] == np.arange(len(found))[:, None]).sum())
    matches = [i for i in page.images if i["alt"].startswith(("Correct match", "Wrong match"))]
    assert len(matches) == found.size
    assert sum(i["alt"].startswith("Correct") for i in matches) == right
    assert 0 < right < found.size


def test_text_of_reports_is_escaped(content):
    assert "Bright left &amp; &lt;right&gt; field." in content
    assert "<right>" not in content


def test_run_without_evaluations_has_training_only(run_copy):
    for file in (run_copy / "evaluations").iterdir():
        file.unlink()
    page = Page(write_report(run_copy).read_text())
    assert page.headings == ["copy", "Training"]
    assert len(page.images) == 1


def test_page_without_the_images_says_so(run_copy):
    """The set is not where the protocol says: tables and curves stay, pictures become a note."""
    for file in (run_copy / "evaluations").glob("*.json"):
        content = json.loads(file.read_text())
        content["protocol"]["data_dir"] = str(run_copy / "gone")
        file.write_text(json.dumps(content))
    page = Page(write_report(run_copy).read_text())
    assert page.all_text.count("No pictures: manifest/x is not prepared") == 3
    assert len(page.images) == 3 and "Hits and misses" not in page.headings
    assert "Text → image, recall@1" in page.all_text


def test_another_set_of_the_same_name_is_noticed(run_copy):
    file = run_copy / "evaluations/retrieval-manifest_x-test.npz"
    with np.load(file) as stored:
        arrays = dict(stored)
    arrays["study_ids"] = np.char.add(arrays["study_ids"], "-other")
    np.savez(file, **arrays)
    page = Page(write_report(run_copy).read_text())
    assert "manifest/x has changed since it was evaluated" in page.all_text


def test_page_without_arrays_has_the_tables(run_copy):
    for file in (run_copy / "evaluations").glob("*.npz"):
        file.unlink()
    page = Page(write_report(run_copy).read_text())
    assert len(page.images) == 1 and "Macro mean" in page.all_text


def test_a_run_that_is_going_on_can_be_reported(run_copy):
    with open(run_copy / "metrics.jsonl", "a") as file:
        file.write('{"step": 50, "los')
    assert "40 steps" in Page(write_report(run_copy).read_text()).all_text


def test_not_a_run(tmp_path, run_copy):
    with pytest.raises(UserError, match=r"metrics\.jsonl not found"):
        write_report(tmp_path)
    (run_copy / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="no line yet"):
        write_report(run_copy)
    (run_copy / "metrics.jsonl").write_text("nonsense\n")
    with pytest.raises(UserError, match="not valid JSON"):
        write_report(run_copy)


@pytest.mark.parametrize("line", [b'{"x": 1}', b"[]", b'{"step": null}', b"\xff\xfe", b"\0\0", b""])
def test_a_line_that_is_none_of_metrics_is_named(run_copy, line):
    file = run_copy / "metrics.jsonl"
    file.write_bytes(file.read_bytes() + line + b"\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        write_report(run_copy)


@pytest.mark.parametrize("config", ["[1]", "null", '{"objectives": 3}', '{"data": {"mixture": 3}}'])
def test_a_config_that_is_none_is_named(run_copy, config):
    (run_copy / "config.json").write_text(config)
    with pytest.raises(UserError, match=r"config\.json"):
        write_report(run_copy)


@pytest.mark.parametrize(
    "content", ["", "[]", "null", '{"protocol": null}', '{"protocol": {"task": "retrieval"}}']
)
def test_other_files_are_passed_over_and_damaged_ones_named(run_copy, content):
    other = run_copy / "evaluations/notes.json"
    other.write_text(content)
    assert "Retrieval" in Page(write_report(run_copy).read_text()).headings
    other.rename(run_copy / "evaluations/retrieval-manifest_y-test.json")
    with pytest.raises(UserError, match=r"retrieval-manifest_y-test\.json"):
        write_report(run_copy)


@pytest.mark.parametrize("length", [0, 40, -100, None])
def test_damaged_arrays_are_named(run_copy, length):
    file = run_copy / "evaluations/retrieval-manifest_x-test.npz"
    if length is None:
        with file.open("wb") as opened:
            np.save(opened, np.ones(3))
    else:
        file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(UserError, match=r"retrieval-manifest_x-test\.npz is damaged"):
        write_report(run_copy)


def test_a_damaged_evaluation_is_named(run_copy):
    file = run_copy / "evaluations/retrieval-manifest_x-test.json"
    file.write_text('{"metrics": {}}')
    with pytest.raises(UserError, match=r"retrieval-manifest_x-test\.json has no 'protocol'"):
        write_report(run_copy)


def test_other_tasks_show_their_figures_and_no_single_masks(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    evaluations = run / "evaluations"
    content = json.loads(next(evaluations.glob("linear-probe*.json")).read_text())
    content["protocol"] |= {"task": "regeneration", "dataset": "toy", "split": "test"}
    content["metrics"] = {"mse": 0.25, "random_initialization/mse": 0.5, "mse/scale_1": 0.125}
    content["confidence_intervals"] = {"mse": [0.2, 0.3]}
    (evaluations / "regeneration-toy-test.json").write_text(json.dumps(content))
    picture = cv2.imencode(".png", np.eye(8, dtype=np.uint8))[1].tobytes()
    (evaluations / "regeneration-toy-test").mkdir()
    (evaluations / "regeneration-toy-test" / "regenerated.png").write_bytes(picture)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "Regeneration" in page.headings
    assert "0.250" in page.all_text and "0.200 to 0.300" in page.all_text
    assert "0.500" in page.all_text and "scale_1" not in page.all_text
    encoded = base64.b64encode(picture).decode()
    assert f"data:image/png;base64,{encoded}" in [image["src"] for image in page.images]
