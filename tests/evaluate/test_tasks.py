"""The door to the tasks: what is run, refused, replaced and written."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medclip_jax.errors import UserError
from medclip_jax.evaluate import tasks
from medclip_jax.evaluate.dataset_hash import hash_studies
from medclip_jax.evaluate.tasks import TASKS, run_task


def test_unknown_task_lists_those_there_are(tmp_path):
    with pytest.raises(
        UserError, match="no task 'finetuning'; there are retrieval, zero-shot, linear-probe"
    ):
        run_task("finetuning", tmp_path, "x")


def test_option_of_another_task_is_refused(tmp_path):
    with pytest.raises(UserError, match="linear-probe has no option --prompts; it has --labels"):
        run_task("linear-probe", tmp_path, "x", prompts=tmp_path / "p.json")


def test_run_task_loads_evaluates_and_writes(
    tmp_path, monkeypatch, capsys, study, studies_of, encoder_of
):
    texts = {name: np.eye(3, dtype=np.float32)[i] for i, name in enumerate("abc")}
    split = studies_of([study(i, [texts[name]], report=name) for i, name in enumerate("abc")])
    encoder = encoder_of(texts, np.eye(3, dtype=np.float32))
    opened = []

    def open_split(*arguments):
        opened.append(arguments)
        return split

    monkeypatch.setattr("medclip_jax.data.datasets.open_split", open_split)
    monkeypatch.setattr("medclip_jax.inference.load", lambda directory: encoder)
    result, path = run_task(
        "retrieval", tmp_path, "manifest/x", split="validation", data_dir=tmp_path
    )
    assert opened == [("manifest/x", "validation", tmp_path)]
    assert path == tmp_path / "evaluations" / "retrieval-manifest_x-validation.json"
    content = json.loads(path.read_text())
    assert (
        content["metrics"]["text_to_image_recall@1"]
        == result.metrics["text_to_image_recall@1"]
        == 1
    )
    protocol = content["protocol"]
    assert (protocol["task"], protocol["dataset"], protocol["split"]) == (
        "retrieval",
        "manifest/x",
        "validation",
    )
    assert protocol["step"] == 7 and protocol["max_text_tokens"] == 32
    assert protocol["checkpoint"] == str(tmp_path)
    assert "text_to_image_recall@1" in capsys.readouterr().out


@pytest.fixture
def labelled(study, studies_of, encoder_of, monkeypatch):
    """A set of twelve images, four directions of two labels, and an encoder that tells them."""
    vectors = np.eye(4, dtype=np.float32)
    texts = {"a": vectors[0], "b": vectors[1], "c": vectors[2], "d": vectors[3]}
    generator = np.random.default_rng(0)

    def split(name, num_patients=12):
        return studies_of(
            [
                study(
                    f"{name}{i}",
                    [vectors[i % 4] + 0.1 * generator.normal(size=4)],
                    patient=f"{name}{i % num_patients}",
                    report="abcd"[i % 4],
                    labels=[i % 4 < 2, i % 2],
                )
                for i in range(12)
            ],
            ("Edema", "Mass"),
        )

    splits = {
        "train": split("t"),
        "validation": split("v"),
        "test": split("e"),
        "one": split("o", 1),
    }
    monkeypatch.setattr("medclip_jax.data.datasets.open_split", lambda _, name, *__: splits[name])
    encoder = encoder_of(texts, vectors)
    loaded = {"encoder": encoder}
    monkeypatch.setattr("medclip_jax.inference.load", lambda directory: loaded["encoder"])
    return loaded


def prompts_file(folder):
    path = folder / "prompts.json"
    lists = {"Edema": (["a", "b"], ["c"]), "Mass": (["b", "d"], ["a"])}
    path.write_text(json.dumps({k: {"positive": p, "negative": n} for k, (p, n) in lists.items()}))
    return path


def test_another_protocol_replaces_nothing(labelled, tmp_path, capsys):
    prompts = prompts_file(tmp_path)
    _, path = run_task("linear-probe", tmp_path, "d", num_resamples=5, tag="a")
    before = path.read_bytes()
    _, other = run_task("linear-probe", tmp_path, "d", num_resamples=5, labels=("Edema",))
    _, third = run_task("zero-shot", tmp_path, "d", num_resamples=5, prompts=prompts)
    assert path.name == "linear-probe-d-test-a.json" and len({path, other, third}) == 3
    capsys.readouterr()
    with pytest.raises(UserError, match=r"holds the figures of another protocol .*labels.*--tag"):
        run_task("linear-probe", tmp_path, "d", num_resamples=5, labels=("Mass",), tag="a")
    assert path.read_bytes() == before
    content = json.loads(other.read_text())
    assert content["protocol"]["differences"] == {"labels": ["Edema"], "num_resamples": 5}
    assert content["metrics"]["macro_auroc"] == content["metrics"]["auroc/Edema"]


def test_a_result_of_an_earlier_version_with_other_options_stays(labelled, tmp_path):
    """It has neither tag nor hash, and the name of the default protocol."""
    _, path = run_task("linear-probe", tmp_path, "d")
    content = json.loads(path.read_text())
    for name in ("differences", "tag", "batch_size"):
        del content["protocol"][name]
    del content["weights_hash"], content["dataset_hash"]
    content["protocol"]["labels"] = ["Edema"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="another protocol .*labels"):
        run_task("linear-probe", tmp_path, "d")
    content["protocol"]["labels"] = []
    path.write_text(json.dumps(content))
    run_task("linear-probe", tmp_path, "d")


def test_the_same_protocol_is_replaced_with_a_word(labelled, tmp_path, capsys):
    class Hashed(type(labelled["encoder"])):
        weights_hash = "one"

    labelled["encoder"] = Hashed({}, np.eye(4, dtype=np.float32), step=600)
    _, path = run_task("linear-probe", tmp_path, "d", num_resamples=5)
    first = json.loads(path.read_text())
    assert first["weights_hash"] == "one" and len(first["dataset_hash"]) == 64
    assert "replaces" not in capsys.readouterr().out
    run_task("linear-probe", tmp_path, "d", num_resamples=5)
    same = "replaces the figures of step 600 (the same weights, the same data)"
    assert same in capsys.readouterr().out
    Hashed.weights_hash = "two"
    run_task("linear-probe", tmp_path, "d", num_resamples=5)
    assert "of step 600 (other weights, the same data)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", ["[]", '{"protocol": null}', '{"protocol": {"differences": 3}}']
)
def test_a_damaged_result_is_replaced_or_refused(content, labelled, tmp_path):
    path = tmp_path / "evaluations" / "linear-probe-d-test-a.json"
    path.parent.mkdir()
    path.write_text(content)
    if "differences" in content:
        with pytest.raises(UserError, match="holds the figures of another protocol"):
            run_task("linear-probe", tmp_path, "d", num_resamples=5, tag="a")
    else:
        assert run_task("linear-probe", tmp_path, "d", num_resamples=5, tag="a")[1] == path


def test_the_output_is_tried_before_the_checkpoint_is_read(labelled, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("medclip_jax.inference.load", lambda directory: pytest.fail("was read"))
    with pytest.raises(UserError, match="--output .*file cannot be written: Not a directory"):
        run_task("retrieval", tmp_path, "d", output=tmp_path / "file")
    monkeypatch.undo()
    with pytest.raises(UserError, match="not a run's workdir"):
        run_task("retrieval", tmp_path / "none", "d")
    assert not (tmp_path / "none").exists()


def test_a_disk_that_fills_up_costs_no_figures(labelled, tmp_path, monkeypatch, capsys):
    original = np.savez_compressed

    def full(file, **arrays):
        if file.name.startswith(str(tmp_path / "evaluations")):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(file, **arrays)

    monkeypatch.setattr(np, "savez_compressed", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UserError, match="No space left on device; the figures are in") as caught:
        run_task("linear-probe", tmp_path, "d", num_resamples=5)
    rescued = Path(str(caught.value).rpartition(" ")[2])
    assert json.loads(rescued.read_text())["metrics"]["macro_auroc"] > 0.5
    assert "macro_auroc" in capsys.readouterr().out
    assert list((tmp_path / "evaluations").iterdir()) == []


def test_one_patient_gives_no_interval(labelled, tmp_path, capsys):
    result, path = run_task("retrieval", tmp_path, "d", split="one", num_resamples=20)
    intervals = json.loads(path.read_text())["confidence_intervals"]
    assert intervals and all(ends == [None, None] for ends in intervals.values())
    assert result.metrics["text_to_image_recall@1"] == 1
    assert "There is one patient only" in capsys.readouterr().out


def test_a_label_known_of_one_patient_has_no_interval(labelled, tmp_path):
    from medclip_jax.data import datasets

    for each in datasets.open_split("d", "test").studies:
        if each.patient_id not in ("e0", "e2"):
            each.labels[0] = np.nan
    result, _ = run_task("linear-probe", tmp_path, "d", num_resamples=20)
    assert np.isfinite(result.confidence_intervals["auroc/Edema"]).all()
    for each in datasets.open_split("d", "test").studies:
        each.labels[0] = 1 if each.study_id == "se0" else 0
        if each.study_id not in ("se0", "se1"):
            each.labels[0] = np.nan
        object.__setattr__(each, "patient_id", "p" if each.study_id < "se2" else each.patient_id)
    result, _ = run_task("linear-probe", tmp_path, "d", num_resamples=20)
    assert np.isfinite(result.metrics["auroc/Edema"])
    for name in ("auroc/Edema", "auprc/Edema", "random_initialization/auroc/Edema"):
        assert np.isnan(result.confidence_intervals[name]).all()
    assert np.isfinite(result.confidence_intervals["auroc/Mass"]).all()


@pytest.mark.parametrize("task", ["retrieval", "zero-shot", "linear-probe"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_figure_of_an_encoder_whose_outputs_are_not_finite(task, value, labelled, tmp_path):
    """As a checkpoint of NaN has them, and one whose weights overflow."""
    labelled["encoder"].matrix = np.full((4, 4), value, np.float32)
    options = {"prompts": prompts_file(tmp_path)} if task == "zero-shot" else {}
    with pytest.raises(UserError, match="are not finite for") as caught:
        run_task(task, tmp_path, "d", **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("evaluations/*"))


def test_embeddings_that_are_all_the_same_have_the_worst_figures(labelled, tmp_path):
    class Collapsed(type(labelled["encoder"])):
        def image_features(self, images):
            return np.ones((len(images), 4), np.float32)

        def embed_texts(self, texts):
            return np.full((len(texts), 4), 0.5, np.float32)

    labelled["encoder"] = Collapsed({}, np.eye(4))
    retrieval, _ = run_task("retrieval", tmp_path, "d", num_resamples=5)
    assert retrieval.metrics["text_to_image_recall@1"] == 0
    assert retrieval.metrics["image_to_text_recall@1"] == 0
    zero_shot, _ = run_task(
        "zero-shot", tmp_path, "d", num_resamples=5, prompts=prompts_file(tmp_path)
    )
    probe, _ = run_task("linear-probe", tmp_path, "d", num_resamples=5)
    assert zero_shot.metrics["macro_auroc"] == probe.metrics["macro_auroc"] == 0.5


def test_labels_that_cannot_be_trained_are_said(labelled, tmp_path, capsys):
    from medclip_jax.data import datasets

    for each in datasets.open_split("d", "train").studies:
        each.labels[1] = 0
    run_task("linear-probe", tmp_path, "d", num_resamples=5)
    assert "left out, with one class only in training: Mass\n" in capsys.readouterr().out


CLASSIFYING = ("zero-shot", "linear-probe", "finetune", "label-efficiency")


@pytest.mark.parametrize("task", CLASSIFYING)
@pytest.mark.parametrize(("value", "words"), [(0, "one class only"), (np.nan, "no known label")])
def test_a_split_without_both_classes_is_refused_at_the_start(
    task, value, words, labelled, tmp_path, monkeypatch
):
    from medclip_jax.data import datasets

    for each in datasets.open_split("d", "test").studies:
        each.labels[:] = value
    monkeypatch.setattr(type(labelled["encoder"]), "embed_images", None)  # nothing is encoded
    monkeypatch.setattr(type(labelled["encoder"]), "image_features", None)
    options = {"prompts": prompts_file(tmp_path)} if task == "zero-shot" else {}
    with pytest.raises(UserError, match=f"the studies of test have {words} of Edema, Mass"):
        run_task(task, tmp_path, "d", num_resamples=5, **options)


@pytest.mark.parametrize("task", ["zero-shot", "linear-probe"])
def test_a_label_without_figures_is_said(task, labelled, tmp_path, capsys):
    from medclip_jax.data import datasets

    for each in datasets.open_split("d", "test").studies:
        each.labels[1] = 1
    options = {"prompts": prompts_file(tmp_path)} if task == "zero-shot" else {}
    result, _ = run_task(task, tmp_path, "d", num_resamples=5, **options)
    said = "no figures, for want of both classes in test: Mass\n"
    assert said in capsys.readouterr().out
    assert np.isnan(result.metrics["auroc/Mass"])
    assert result.metrics["macro_auroc"] == result.metrics["auroc/Edema"]


@pytest.mark.parametrize("task", CLASSIFYING[1:])
def test_the_only_training_patient_cannot_be_held_out(task, labelled, tmp_path, monkeypatch):
    from medclip_jax.data import datasets

    splits = {name: datasets.open_split("d", name) for name in ("one", "test")}

    def open_split(_, name, *__):
        if name == "validation":
            raise UserError("no split 'validation'")
        return splits["one" if name == "train" else name]

    monkeypatch.setattr("medclip_jax.data.datasets.open_split", open_split)
    with pytest.raises(UserError, match="train has one patient only"):
        run_task(task, tmp_path, "d", num_resamples=5)


def test_the_hash_of_data_is_of_ids_images_reports_and_labels(study, studies_of):
    def hashed(number=1, image=(1.0,), report="r", labels=(1.0,), names=("A",), patient="p"):
        made = study(number, [image], report=report, labels=labels, patient=patient)
        return hash_studies(studies_of([study(0, [(0.0,)], labels=(0.0,)), made], names))

    assert hashed() == hashed()
    others = [
        hashed(number=2),
        hashed(image=(2.0,)),
        hashed(report="s"),
        hashed(labels=(0.0,)),
        hashed(labels=(np.nan,)),
        hashed(names=("B",)),
        hashed(patient="q"),
    ]
    assert len({hashed(), *others}) == 8


def test_every_task_has_its_module():
    for module, _ in TASKS.values():
        assert callable(tasks.importlib.import_module(f"medclip_jax.evaluate.{module}").evaluate)


def test_naming_the_tasks_imports_neither_jax_nor_scikit_learn():
    code = (
        "import sys, medclip_jax.evaluate.tasks;"
        "print([m for m in ('jax', 'sklearn', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
