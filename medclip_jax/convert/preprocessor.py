"""The preprocessing of an export: our image pipeline as files that need NumPy and Pillow only."""

import dataclasses
import importlib.resources
import json
from pathlib import Path

from medclip_jax.convert.pytorch_files import preprocessing
from medclip_jax.data.augment import Augmentation
from medclip_jax.inference.encoder import Encoder

PROCESSOR = "image_processing_medclip"


def write_preprocessing(
    encoder: Encoder, output: Path, *, huggingface: bool, channels: int | None = None
) -> None:
    """Writes `preprocessor_config.json` and the code that reads it into a directory.

    Args:
        encoder: whose sizes, mean and standard deviation to write.
        output: an existing directory.
        huggingface: whether to add the class that `AutoImageProcessor` loads.
        channels: how often to repeat the grey image, 3 for an encoder of RGB; by default once.
    """
    augmentation = Augmentation.from_config(encoder.config.augmentation)
    settings = preprocessing.Preprocessing(
        image_size=encoder.config.data.image_size,
        crop_size=augmentation.crop_size,
        mean=augmentation.mean,
        std=augmentation.std,
        channels=channels or 1,
    )
    config = dataclasses.asdict(settings)
    modules = ["preprocessing"]
    if huggingface:
        modules.append(PROCESSOR)
        config["image_processor_type"] = "MedClipImageProcessor"
        config["auto_map"] = {"AutoImageProcessor": f"{PROCESSOR}.MedClipImageProcessor"}
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (output / "preprocessor_config.json").write_text(text, encoding="utf-8")
    folder = importlib.resources.files("medclip_jax.convert.pytorch_files")
    for module in modules:
        code = (folder / f"{module}.py").read_bytes()
        (output / f"{module}.py").write_bytes(code)
