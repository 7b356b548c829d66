"""A small run that has everything: a prepared set, metrics, a config and three evaluations."""

import csv
import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from medclip_jax.data.build import build_manifest
from medclip_jax.data.images import decode_gray
from medclip_jax.evaluate.tasks import run_task

TEXTS = ("Bright upper field.", "Bright lower field.", "Bright left & <right> field.")


@dataclasses.dataclass
class PatchEncoder:
    """Embeds an image as the means of its four quarters; texts as what they should look like."""

    matrix: np.ndarray
    temperature: float = 0.2
    step: int = 40
    config: ConfigDict = dataclasses.field(
        default_factory=lambda: ConfigDict({"seed": 0, "text_encoder": {"max_length": 32}})
    )

    def image_features(self, images):
        small = [cv2.resize(decode_gray(i), (2, 2), interpolation=cv2.INTER_AREA) for i in images]
        return (np.stack(small).reshape(-1, 4) / 255 - 0.5).astype(np.float32) @ self.matrix

    def embed_images(self, images):
        return _unit(self.image_features(images))

    def embed_texts(self, texts):
        return _unit(np.stack([_pattern(text) for text in texts]) @ self.matrix)

    def as_given(self, seed=0):
        return dataclasses.replace(self, matrix=np.eye(4, dtype=np.float32))

    def randomly_initialized(self, seed=0):
        matrix = np.random.default_rng(seed).normal(size=(4, 4)).astype(np.float32)
        return dataclasses.replace(self, matrix=matrix)


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _pattern(text):
    upper = np.array([1, 1, -1, -1], np.float32)
    text = text.lower()
    if text.startswith("no ") or "there is no" in text or "no evidence" in text or "lower" in text:
        return -upper
    return np.array([1, -1, 1, -1], np.float32) if "left" in text else upper


def write_set(root):
    """Twenty-four studies a split; `Edema` is a bright upper half, `Mass` is unknown in some."""
    generator = np.random.default_rng(0)
    with open(root / "pairs.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_path", "text", "patient_id", "study_id", "split", "Edema", "Mass"])
        for number in range(72):
            kind, split = number % 3, ("train", "validation", "test")[number // 24]
            pattern = _pattern(TEXTS[kind]).reshape(2, 2)
            noise = 60 * generator.normal(size=(2, 2))
            pixels = np.clip(128 + 40 * pattern + noise, 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / f"{number}.png"), np.kron(pixels, np.ones((32, 24), np.uint8)))
            mass = ["", "0", "1"][number % 3] if number % 4 else "1"
            text = TEXTS[kind] + (" Portable." if number % 2 else "")
            edema = int(kind == 0)
            writer.writerow([f"{number}.png", text, f"p{number}", f"s{number}", split, edema, mass])


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The workdir; the prepared set lies in its `data`."""
    root = tmp_path_factory.mktemp("report")
    write_set(root)
    workdir = root / "my_run"
    build_manifest(
        "x", root / "pairs.csv", root, label_columns=("Edema", "Mass"), data_dir=workdir / "data"
    )
    write_metrics(workdir)
    with pytest.MonkeyPatch.context() as patch:
        encoder = PatchEncoder(np.eye(4, dtype=np.float32))
        patch.setattr("medclip_jax.inference.load", lambda directory: encoder)
        for task in ("retrieval", "zero-shot", "linear-probe"):
            run_task(task, workdir, "manifest/x", data_dir=workdir / "data")
    return workdir


def write_metrics(workdir):
    config = {
        "num_steps": 40,
        "seed": 3,
        "objectives": {"contrastive": {"weight": 1.0}, "sigmoid_contrastive": {"weight": 0.0}},
        "data": {"dataset": "manifest/x"},
    }
    (workdir / "config.json").write_text(json.dumps(config))
    lines = [{"step": s, "loss": 3.0 / s, "learning_rate": 1e-3} for s in range(10, 50, 10)]
    lines.insert(2, {"step": 20, "validation/loss": 0.25, "evaluation_seconds": 1.0})
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run_copy(finished_run, tmp_path):
    """A workdir of one's own to damage; the prepared set stays where it was."""
    return shutil.copytree(finished_run, tmp_path / "copy", ignore=shutil.ignore_patterns("data"))
