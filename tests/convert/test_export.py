"""`medclip-jax export`: every format from a run, its model card, its check, and its errors."""

import csv
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import medclip_jax
from medclip_jax import cli
from medclip_jax.config import load_config
from medclip_jax.convert.variables_file import read_variables, write_variables
from medclip_jax.data.datasets import open_split
from medclip_jax.errors import UserError
from medclip_jax.evaluate.tasks import run_task
from medclip_jax.report.page import write_report
from medclip_jax.report.weights import saved_weights
from medclip_jax.train.loop import pretrain

torch = pytest.importorskip("torch")

DOCS = Path(__file__).parents[2] / "docs"
WIDE = ("--config.image_encoder.width=64",)  # as torchvision and timm have it


@pytest.fixture(scope="module")
def workdir(toy_config: Path, toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps, evaluated."""
    folder = tmp_path_factory.mktemp("runs") / "toy_run"
    pretrain(load_config(str(toy_config), ["--config.num_steps=3", *WIDE]), folder)
    run_task("linear-probe", folder, "manifest/toy", split="test", data_dir=toy_data, output=None)
    return folder


def export(workdir: Path, format_name: str, output: Path, *flags: str) -> None:
    cli.main(
        ["export", f"--checkpoint={workdir}", f"--format={format_name}", f"--output={output}"]
        + list(flags)
    )


@pytest.mark.parametrize("format_name", ["torchvision", "timm", "huggingface", "safetensors"])
def test_each_format_is_verified(
    workdir: Path, tmp_path: Path, capsys, format_name: str, timm, transformers
) -> None:
    export(workdir, format_name, tmp_path / "out", "--verify")
    printed = capsys.readouterr().out
    kinds = {line.split("  ")[0] for line in printed.splitlines()[2:]}
    assert {"image_features", "image_grid"} <= kinds
    assert re.search(r"^image_features +real ", printed, re.MULTILINE)
    if format_name == "huggingface":
        assert {"logits_per_image", "text_tokens (tower)", "image_grid (tower)"} <= kinds
    if format_name != "safetensors":
        assert "pixels (grey levels)" in kinds
    assert not list(tmp_path.glob(".*"))


def test_safetensors_is_read_back_bit_by_bit(workdir: Path, tmp_path: Path) -> None:
    export(workdir, "safetensors", tmp_path / "out")
    before, after = medclip_jax.load(workdir), medclip_jax.load(tmp_path / "out")
    assert after.step == before.step == 3 and after.config == before.config
    texts = ["a small left effusion", ""]
    for ours, theirs in zip(before.tokenize(texts), after.tokenize(texts), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    import jax

    for ours, theirs in zip(
        jax.tree_util.tree_leaves_with_path(dict(before.variables)),
        jax.tree_util.tree_leaves_with_path(dict(after.variables)),
        strict=True,
    ):
        assert ours[0] == theirs[0]
        np.testing.assert_array_equal(ours[1], theirs[1])
    export(tmp_path / "out", "safetensors", tmp_path / "again")
    again = (tmp_path / "again/model.safetensors").read_bytes()
    assert again == (tmp_path / "out/model.safetensors").read_bytes()


def test_an_export_can_be_evaluated(workdir: Path, toy_data: Path, tmp_path: Path) -> None:
    export(workdir, "safetensors", tmp_path / "out")
    run_task(
        "linear-probe",
        tmp_path / "out",
        "manifest/toy",
        split="test",
        data_dir=toy_data,
        output=None,
    )
    name = "linear-probe-manifest_toy-test.json"
    ours, theirs = (
        json.loads((folder / "evaluations" / name).read_text())
        for folder in (workdir, tmp_path / "out")
    )
    assert ours["metrics"] == theirs["metrics"]
    for kind in ("weights_hash", "dataset_hash"):
        assert len(ours[kind]) == 64 and ours[kind] == theirs[kind]


def test_the_card_has_no_figures_of_other_weights(workdir: Path, tmp_path: Path) -> None:
    """Weights of the same step as those evaluated, but not the same, as after a step was lost."""
    changed = tmp_path / "changed"
    export(workdir, "safetensors", changed)
    variables, texts = read_variables(changed / "model.safetensors")
    variables["params"]["image_projection"]["output"]["bias"][0] += 1e-3
    write_variables(changed / "model.safetensors", variables, texts)
    shutil.copytree(workdir / "evaluations", changed / "evaluations")
    export(changed, "safetensors", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "at step 3" in card and "macro_auroc" not in card
    assert "other weights, left out: 1, namely linear-probe-manifest_toy-test (step 3)." in card
    assert "No figures of these weights" in card

    file = changed / "evaluations/linear-probe-manifest_toy-test.json"
    content = json.loads(file.read_text())
    del content["weights_hash"], content["dataset_hash"]  # as an earlier version wrote it
    file.write_text(json.dumps(content))
    export(changed, "safetensors", tmp_path / "again")
    card = (tmp_path / "again/README.md").read_text()
    assert "| macro_auroc |" in card and "recorded without a hash" in card


def test_the_page_compares_with_the_weights_of_the_checkpoint(
    workdir: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(workdir, tmp_path / "run")
    file = run / "evaluations/linear-probe-manifest_toy-test.json"
    content = json.loads(file.read_text())
    assert saved_weights(run) == (3, content["weights_hash"])
    assert "<h2>Linear probe</h2>" in write_report(run).read_text(encoding="utf-8")
    file.write_text(json.dumps(content | {"weights_hash": "0"}))
    page = write_report(run).read_text(encoding="utf-8")
    assert "<h2>Linear probe</h2>" not in page
    assert "linear-probe-manifest_toy-test (step 3)" in page


def test_weights_that_are_not_finite_are_refused(workdir: Path, tmp_path: Path, capsys) -> None:
    export(workdir, "safetensors", tmp_path / "out")
    path = tmp_path / "out/model.safetensors"
    variables, texts = read_variables(path)
    variables["params"]["image_projection"]["output"]["kernel"][0, 0] = np.nan
    write_variables(path, variables, texts)
    capsys.readouterr()
    data = f"--dataset=manifest/toy --data-dir={tmp_path}".split()
    for arguments in (
        ["evaluate", "retrieval", *data],
        ["embed", f"--texts={tmp_path / 'texts.txt'}", f"--output={tmp_path / 'x.npz'}"],
        ["export", "--format=timm", f"--output={tmp_path / 'timm'}"],
    ):
        (tmp_path / "texts.txt").write_text("a small effusion")
        with pytest.raises(SystemExit) as caught:
            cli.main([*arguments, f"--checkpoint={tmp_path / 'out'}"])
        error = capsys.readouterr().err
        assert caught.value.code == 2 and error.count("\n") == 1
        assert "step 3 are not finite (1 arrays, the first params/image_projection" in error
    assert not (tmp_path / "timm").exists() and not (tmp_path / "x.npz").exists()


def test_the_card_tells_data_settings_figures_and_preprocessing(
    workdir: Path, toy_data: Path, tmp_path: Path
) -> None:
    export(workdir, "huggingface", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    evaluation = (workdir / "evaluations/linear-probe-manifest_toy-test.json").read_text()
    value = re.search(r'"macro_auroc": ([0-9.]+)', evaluation)
    assert value and f"| macro_auroc | {float(value[1]):.3f} |" in card
    for part in (
        "# toy_run",
        "step 3",
        "| manifest/toy | all |",
        "| Batch size | 16 |",
        "| Objectives | contrastive × 1 |",
        "longer side is\n32 pixels",
        "less 0.5, divided by 0.25",
        "Texts are cut to 16 tokens",
        "Not a medical device",
        "linear-probe on manifest/toy, test split: 16 studies",
    ):
        assert part in card, part
    assert "{{" not in card and "None\n" not in card
    assert str(toy_data) not in card


def test_a_changed_weight_fails_the_check(workdir: Path, tmp_path: Path, capsys) -> None:
    from medclip_jax.convert.export import check_export
    from medclip_jax.convert.formats import safetensors_format

    export(workdir, "safetensors", tmp_path / "out")
    path = tmp_path / "out/model.safetensors"
    variables, texts = read_variables(path)
    variables["params"]["image_projection"]["output"]["bias"][0] += 0.1
    write_variables(path, variables, texts)
    with pytest.raises(UserError, match="computes otherwise .* image_embeddings, logits_per_image"):
        check_export(medclip_jax.load(workdir), tmp_path / "out", safetensors_format)
    assert re.search(r"^image_embeddings .* FAR$", capsys.readouterr().out, re.MULTILINE)


def test_the_current_folder_is_an_output(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    export(workdir, "safetensors", Path())
    assert Path("model.safetensors").is_file() and Path("README.md").is_file()


def test_wrong_calls_are_one_line(workdir: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for arguments, message in (
        ((workdir, "onnx", tmp_path / "out"), "--format onnx: give one of torchvision, timm"),
        ((workdir, "timm", tmp_path / "full"), "full is not empty: give a new directory"),
        ((tmp_path / "none", "timm", tmp_path / "out"), "is not a run's workdir"),
        ((workdir, "timm", tmp_path / "full/file/out"), "cannot be written: Not a directory"),
    ):
        with pytest.raises(SystemExit) as caught:
            export(*arguments)
        errors = capsys.readouterr().err
        assert caught.value.code == 2 and message in errors and errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "damaged or cut short"),
        (
            lambda path: write_variables(
                path, {"params": {"x": np.ones(2, np.float32)}}, {"medclip_jax_step": "1"}
            ),
            "the weights do not fit config.json",
        ),
        (lambda path: write_variables(path, {"x": np.ones(2)}, {}), "is an export for PyTorch"),
    ],
)
def test_damaged_exports_are_one_line(workdir: Path, tmp_path: Path, damage, message: str) -> None:
    export(workdir, "safetensors", tmp_path / "out")
    damage(tmp_path / "out/model.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        medclip_jax.load(tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_the_fine_tuning_of_the_docs(
    workdir: Path, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(workdir, "huggingface", tmp_path / "runs/demo-pytorch")
    studies = list(open_split("manifest/toy", "train", toy_data))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image_path", "label"])
        for number, study in enumerate(studies):
            image = cv2.imdecode(np.frombuffer(study.images[0], np.uint8), cv2.IMREAD_GRAYSCALE)
            cv2.imwrite(str(tmp_path / f"{number}.png"), image)
            table.writerow([f"{number}.png", int(study.labels[0])])
    code = re.findall(r"```python\n(.*?)```", (DOCS / "pytorch.md").read_text(), re.DOTALL)
    assert code[1].count("\n") == 10
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    variables: dict = {}
    exec("\n".join(code), variables)  # noqa: S102  # the docs' own code
    assert variables["loss"].item() < 0.2
    shutil.rmtree(tmp_path / "runs")
