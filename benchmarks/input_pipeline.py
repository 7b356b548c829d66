"""Images a second that the host hands to training: this input pipeline against PyTorch's.

Both sides decode JPEG files, draw a sentence of the report and tokenise it. Ours stops at padded
8-bit images, because augmentation runs on the accelerator; a PyTorch `DataLoader` with two worker
processes applies ConVIRT's transforms (arXiv 2010.00747) on the host, crop and resize
first, which is the cheapest order. The rates are taken in turn, and their medians compared.
"""

import csv
import functools
import importlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image

from medclip_jax.config import base_config
from medclip_jax.data import build, datasets, images, pipeline, tokenizer

BATCH_SIZE = 32  # ConVIRT's
MAX_LENGTH = 64
SOURCE_SIZE = 512  # pixels of the shorter side of the usual distributed JPEG files
STORED_SIZE = 256
Batches = Generator[Any, None, None]
OPERATORS: list[Any] = []  # declared operators live as long as their library
SENTENCES = (
    "The heart size is normal.",
    "No focal consolidation, pleural effusion or pneumothorax is seen.",
    "There is a 1.5 cm nodule in the left upper lobe.",
    "Low lung volumes with bibasilar atelectasis.",
    "The mediastinal and hilar contours are unremarkable.",
    "Mild interstitial edema has improved since the prior study.",
    "A right internal jugular catheter ends in the superior vena cava.",
)


def main(quick: bool = False) -> dict[str, Any]:
    """Measures both pipelines.

    Args:
        quick: a fraction of a second a side, to see that it runs.

    Returns:
        Images a second of each side, their ratios, and what they were measured on.
    """
    num_images, seconds, repeats = (64, 0.5, 1) if quick else (1024, 6.0, 3)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        _write_sources(root / "sources", num_images)
        build.build_manifest(
            "benchmark", root / "sources" / "manifest.csv", root / "sources", data_dir=root
        )
        _write_stored(root)
        tokenizer.train_wordpiece(list(SENTENCES) * 2, 500, root / "tokenizer")
        rates: dict[str, list[float]] = {
            name: [] for name in ("ours", "pytorch_256", "pytorch_512")
        }
        for _ in range(repeats):
            rates["ours"].append(_images_per_second(_our_batches(root), seconds))
            for name, folder in (("pytorch_256", "stored"), ("pytorch_512", "sources")):
                dataset = ReportImages(root / folder, root / "tokenizer")
                rates[name].append(_images_per_second(_torch_batches(dataset), seconds))
    rate = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "images_per_second": rate,
        "ratio_to_pytorch_256": rate["ours"] / rate["pytorch_256"],
        "ratio_to_pytorch_512": rate["ours"] / rate["pytorch_512"],
        "cpu_cores": os.cpu_count(),
        "batch_size": BATCH_SIZE,
        "ours": "decode, pad to 256 pixels, sentence, tokens, from the second epoch on; "
        "augmentation is on the accelerator",
        "pytorch": "two workers, ConVIRT's transforms to 224 pixels, sentence, tokens",
    }


def _write_sources(folder: Path, num_images: int) -> None:
    """JPEG files with the spectrum of radiographs, and a manifest of them with reports."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    lines = ["image_path,text"]
    for number in range(num_images):
        height = SOURCE_SIZE + int(generator.integers(0, 120))
        image = np.zeros((height, SOURCE_SIZE), np.float32)
        for octave in range(2, 8):
            shape = (height >> octave) + 2, (SOURCE_SIZE >> octave) + 2
            noise = generator.standard_normal(shape).astype(np.float32)
            image += 2.0**octave * cv2.resize(noise, image.shape[::-1], None, 0, 0, cv2.INTER_CUBIC)
        image = 128 + image * (48 / image.std()) + generator.normal(0, 2, image.shape)
        encoded = images.encode_jpeg(image.clip(0, 255).astype(np.uint8))
        (folder / f"{number:04d}.jpg").write_bytes(encoded)
        report = " ".join(generator.permutation(SENTENCES))
        lines.append(f'{number:04d}.jpg,"FINDINGS: {report}"')
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")


def _write_stored(root: Path) -> None:
    """The images of the prepared set as files of their own, with the same manifest."""
    (root / "stored").mkdir()
    manifest = ["image_path,text"]
    studies = datasets.open_split("manifest/benchmark", "train", root)
    for number, study in enumerate(studies):
        (root / "stored" / f"{number:04d}.jpg").write_bytes(study.images[0])
        manifest.append(f'{number:04d}.jpg,"{study.report}"')
    (root / "stored" / "manifest.csv").write_text("\n".join(manifest) + "\n")


def _our_batches(root: Path) -> Batches:
    data = base_config().data
    data.update(
        dataset="manifest/benchmark", data_dir=str(root), image_size=STORED_SIZE, num_threads=4
    )
    batches = pipeline.make_iterator(
        data,
        seed=0,
        batch_size=BATCH_SIZE,
        tokenizer=tokenizer.load_tokenizer(root / "tokenizer"),
        max_length=MAX_LENGTH,
    )
    yield from batches
    batches.close()


class ReportImages:
    """A map-style PyTorch dataset of image files with reports, with ConVIRT's transforms."""

    def __init__(self, folder: Path, tokenizer_directory: Path) -> None:
        self._folder = folder
        self._tokenizer_directory = tokenizer_directory
        with (folder / "manifest.csv").open() as file:
            self._rows = list(csv.DictReader(file))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = self._rows[index]
        with PIL.Image.open(self._folder / row["image_path"]) as file:
            image = self._transform(file.convert("L"))
        sentence = random.choice(row["text"].split(". "))
        tokens = self._tokenizer(
            sentence,
            max_length=MAX_LENGTH,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        return image, tokens["input_ids"][0]

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._tokenizer_directory)

    @functools.cached_property
    def _transform(self) -> Any:
        transforms = import_torchvision("transforms")
        return transforms.Compose(
            [
                transforms.RandomResizedCrop(224, scale=(0.6, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomAffine(20, translate=(0.1, 0.1), scale=(0.95, 1.05)),
                transforms.ColorJitter(brightness=(0.6, 1.4), contrast=(0.6, 1.4)),
                transforms.GaussianBlur(kernel_size=23, sigma=(0.1, 3.0)),
                transforms.ToTensor(),
            ]
        )


def _torch_batches(dataset: ReportImages) -> Batches:
    import torch.utils.data

    data: Any = dataset
    loader: Any = torch.utils.data.DataLoader(
        data,
        batch_size=BATCH_SIZE,
        # One endless epoch: the workers never wait for its end.
        sampler=torch.utils.data.RandomSampler(data, replacement=True, num_samples=10**9),
        num_workers=2,
        multiprocessing_context="spawn",  # this process runs threads, which a fork may deadlock
    )
    yield from loader


def import_torchvision(part: str) -> Any:
    """`torchvision.PART`, also where only its CUDA build is there beside a CPU PyTorch."""
    import torch

    name = f"torchvision.{part}"
    try:
        return importlib.import_module(name)
    except RuntimeError:
        # Its compiled operators are missing then; declared, they let the Python parts be imported.
        OPERATORS.append(torch.library.Library("torchvision", "DEF"))
        for operator in ("nms", "qnms"):
            schema = f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor"
            OPERATORS[0].define(schema)
        return importlib.import_module(name)


def _images_per_second(batches: Batches, seconds: float) -> float:
    """The rate after the start-up and after what was prefetched during it."""
    for _ in range(16):
        next(batches)
    num_batches, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        next(batches)
        num_batches += 1
    rate = num_batches * BATCH_SIZE / (time.perf_counter() - start)
    batches.close()
    return rate
