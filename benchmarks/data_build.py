"""`data build` of full-size radiographs: images a second and memory against OpenCV alone.

Each side decodes the same JPEG files, scales them to 256 pixels with averages over areas and
encodes them: `medclip-jax data build manifest`, which also checks, shuffles and writes the set;
OpenCV in threads on all cores, and OpenCV in a loop, both of which drop what they made. Each runs
in a process of its own, in turn; the medians are compared.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from medclip_jax.data import images

STORED_SIZE = 256
NUM_DISTINCT = 50  # files; the others are links to them, so that no disk is measured

_MEASURE = """
import json, pathlib, sys, time
start = time.perf_counter()
{run}
seconds = time.perf_counter() - start
# Not the resource module's figure, which a process inherits from the one that started it.
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").open())
peak = int(status["VmHWM"].split()[0])
print(json.dumps({{"seconds": seconds, "peak_mib": peak / 1024}}))
"""
_OPENCV = """
import cv2, pathlib
from concurrent.futures import ThreadPoolExecutor
cv2.setNumThreads(1)
def store(path):
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    scale = {size} / min(image.shape)
    shape = round(image.shape[1] * scale), round(image.shape[0] * scale)
    small = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
    return len(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])
paths = sorted(pathlib.Path(sys.argv[1]).glob("*.jpg"))
with ThreadPoolExecutor({threads}) as pool:
    assert min(pool.map(store, paths)) > 0
"""
_OURS = """
from medclip_jax.data import build
root = sys.argv[1]
build.build_manifest("benchmark", root + "/manifest.csv", root, data_dir=sys.argv[2])
"""


def main(quick: bool = False) -> dict[str, Any]:
    """Measures all three sides.

    Args:
        quick: few and small images, to see that it runs.

    Returns:
        Images a second and peak memory of each side, and the ratios of the rates.
    """
    num_images, shape, repeats = (40, (750, 600), 1) if quick else (2000, (2500, 2000), 3)
    cores = os.cpu_count() or 1
    programs = {
        "data_build": _OURS,
        "opencv_all_cores": _OPENCV.format(size=STORED_SIZE, threads=cores),
        "opencv_loop": _OPENCV.format(size=STORED_SIZE, threads=1),
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "source"
        _write_sources(source, num_images, shape)
        for repeat in range(repeats):
            for name, program in programs.items():
                sets = Path(directory) / f"{name}-{repeat}"
                runs[name].append(_measure(program, source, sets))
    rate = {
        name: num_images / statistics.median(run["seconds"] for run in results)
        for name, results in runs.items()
    }
    return {
        "images_per_second": rate,
        "peak_mib": {name: max(run["peak_mib"] for run in runs[name]) for name in runs},
        "ratio_to_opencv_on_all_cores": rate["data_build"] / rate["opencv_all_cores"],
        "ratio_to_opencv_in_a_loop": rate["data_build"] / rate["opencv_loop"],
        "num_images": num_images,
        "height_width": shape,
        "cpu_cores": cores,
    }


def _write_sources(folder: Path, num_images: int, shape: tuple[int, int]) -> None:
    """JPEG files with the spectrum and the noise of radiographs, and a manifest of them."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(num_images):
        path = folder / f"{number:05d}.jpg"
        if number < NUM_DISTINCT:
            path.write_bytes(images.encode_jpeg(_radiograph_like(generator, shape)))
        else:
            path.hardlink_to(folder / f"{number % NUM_DISTINCT:05d}.jpg")
    rows = [f"{number:05d}.jpg\n" for number in range(num_images)]
    (folder / "manifest.csv").write_text("".join(["image_path\n", *rows]))


def _radiograph_like(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    image = np.zeros(shape, np.float32)
    for octave in range(3, 10):
        coarse = (shape[0] >> octave) + 2, (shape[1] >> octave) + 2
        noise = generator.standard_normal(coarse).astype(np.float32)
        image += 2.0**octave * cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC)
    image = 128 + image * (48 / image.std()) + generator.normal(0, 2, shape)
    return image.clip(0, 255).astype(np.uint8)


def _measure(program: str, source: Path, sets: Path) -> dict[str, float]:
    command = [sys.executable, "-c", _MEASURE.format(run=program), str(source), str(sets)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout.splitlines()[-1])
