"""Configurations: the keys every run has, how a file and overrides become one, how it is checked.

`base_config` is the schema. A config file starts from it and sets values; an unknown key, or a
value of another type, is an error of one line wherever it comes from.
"""

import difflib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from medclip_jax.errors import UserError

# Keys that do not change what was already computed: a resumed run may differ in them, and in
# num_steps unless the learning rate's cosine depends on it.
RESUMABLE_KEYS = (
    "log_every",
    "checkpoint_every",
    "mesh.",
    "data.data_dir",
    "data.num_threads",
    "data.prefetch",
)


# The least value that a number may have.
LEAST = {
    "seed": 0,
    "num_steps": 1,
    "batch_size": 1,
    "log_every": 1,
    "checkpoint_every": 1,
    "evaluate_every": 1,
    "image_encoder.width": 1,
    "projection.size": 1,
    "optimizer.learning_rate": 0,
    "optimizer.weight_decay": 0,
    "optimizer.clip_norm": 0,
    "optimizer.ema_decay": 0,
    "schedule.warmup_steps": 0,
    "schedule.patience": 1,
    "data.image_size": 1,
    "data.validation_examples": 0,
    "data.num_threads": 1,
    "data.prefetch": 1,
    "tokenizer.vocab_size": 1,
    "augmentation.crop_size": 1,
}


def base_config() -> ConfigDict:
    """Every key a run has, with neutral defaults; config files change values, never add keys."""
    config = ConfigDict()
    config.seed = 0
    config.num_steps = 1000
    config.batch_size = 32
    config.log_every = 10  # steps, as are the next two
    config.checkpoint_every = 500
    config.evaluate_every = 500
    # -1 fills an axis with the devices that are left. Rows of a batch lie over data x fsdp.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1})
    config.compute_dtype = "float32"  # or "bfloat16"; parameters are always float32

    config.objectives = ConfigDict(
        {
            # An objective with weight 0 is off. tile_size 0 computes the dense loss.
            "contrastive": {"weight": 1.0, "image_to_text_weight": 0.5, "tile_size": 0},
            "sigmoid_contrastive": {"weight": 0.0, "tile_size": 0},
        }
    )
    config.image_encoder = ConfigDict(
        {"name": "resnet50", "width": 64, "channels": 1, "pooling": "mean", "remat": False}
    )
    config.text_encoder = ConfigDict(
        {
            "name": "bert",
            "hidden_size": 768,
            "num_layers": 12,
            "num_heads": 12,
            "intermediate_size": 3072,
            "max_position_embeddings": 512,
            "max_length": 128,  # tokens of one text
            "pooling": "cls",
            "dropout_rate": 0.1,
            "remat": False,
        }
    )
    config.projection = ConfigDict({"size": 512, "kind": "nonlinear", "bias": True})
    config.temperature = ConfigDict({"init": 0.07, "learnable": True})
    config.sigmoid_bias = -10.0  # start of the learnable bias of sigmoid_contrastive

    config.optimizer = ConfigDict(
        {
            "learning_rate": 1e-4,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "decoupled_weight_decay": True,  # False adds it to the gradient, as torch's Adam does
            "clip_norm": 0.0,  # 0 does not clip
            "ema_decay": 0.0,  # 0 keeps no average of the weights
            # Regular expressions on parameter names; of each table the first match counts.
            "frozen": (),
            "learning_rate_multipliers": (),  # ((pattern, multiplier), ...)
            "weight_decay_multipliers": (),
        }
    )
    config.schedule = ConfigDict(
        {
            "name": "cosine",  # "constant", "cosine" or "plateau"
            "warmup_steps": 0,
            "final_fraction": 0.0,  # of the learning rate, where the cosine ends
            "factor": 0.5,  # plateau: times this ...
            "patience": 5,  # ... after so many evaluations without a lower validation loss
        }
    )
    config.data = ConfigDict(
        {
            "dataset": "synthetic_cxr/demo",
            "mixture": (),  # ((dataset, weight), ...) instead of one dataset
            "data_dir": "",  # "" is $TFDS_DATA_DIR, else TFDS's default
            "image_size": 256,  # side of the padded square that the host hands over
            "sections": ("findings", "impression"),
            "text": "sentence",  # one sentence a step, or the whole "report"
            "validation_examples": 512,
            "num_threads": 16,
            "prefetch": 4,  # batches read ahead
        }
    )
    config.tokenizer = ConfigDict(
        {"directory": "", "vocab_size": 8192}  # "" trains WordPiece on the training reports
    )
    config.augmentation = ConfigDict(
        {
            "crop_size": 224,
            "crop_area": (0.6, 1.0),
            "flip_probability": 0.0,
            "rotation_degrees": 20.0,
            "translation": 0.1,
            "scale": (0.95, 1.05),
            "brightness": (0.6, 1.4),
            "contrast": (0.6, 1.4),
            "blur_sigma": (0.1, 3.0),
            "mean": 0.5,
            "std": 0.25,
        }
    )
    return config.lock()


def find_config(path: str) -> str:
    """The file that `path` ("X.py" or "X.py:argument") names: itself, else the packaged config."""
    file, colon, argument = path.partition(":")
    if Path(file).is_file():
        return path
    package = importlib.util.find_spec("medclip_jax.configs")
    here = Path(__file__).parent
    folders = [Path(p) for p in package.submodule_search_locations or []] if package else []
    for folder in [*folders, here.parent / "configs"]:
        packaged = folder / Path(file).name
        if packaged.is_file():
            return f"{packaged}{colon}{argument}"
    raise UserError(
        f"config file {file} not found (nor packaged); give --config PATH.py[:argument]"
    )


def load_config(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Reads a config file and applies overrides such as `--config.batch_size=64`.

    Raises:
        UserError: the file is missing or broken, or a key or a value's type is unknown.
    """
    arguments = ["medclip-jax", f"--config={find_config(path)}", *overrides]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
        config = values.config
    except UserError:
        raise
    except Exception as error:  # ml_collections raises many kinds; each is the user's input here
        what = "unknown key " if isinstance(error, KeyError) else ""
        message = " ".join(str(error.args[0] if error.args else error).split())
        raise UserError(f"--config {path}: {what}{message}") from error
    validate(config)
    return config


def validate(config: ConfigDict) -> None:
    """Raises a UserError that names the first key that is unknown, missing or of another type."""
    expected, given = dict(flatten(base_config())), dict(flatten(config))
    for key in given:
        if key not in expected:
            near = difflib.get_close_matches(key, expected, n=1)
            raise UserError(f"unknown config key {key}" + f"; did you mean {near[0]}?" * bool(near))
    for key, default in expected.items():
        if key not in given:
            raise UserError(
                f"config key {key} is missing: start from medclip_jax.config.base_config"
            )
        value = given[key]
        number = isinstance(default, float) and isinstance(value, int)
        if not isinstance(value, type(default)) and not number:
            raise UserError(
                f"config key {key} is {value!r}, but must be of type {type(default).__name__}"
            )
        if key in LEAST and not value >= LEAST[key]:
            raise UserError(f"config key {key} is {value}, but must be {LEAST[key]} or more")


def flatten(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a config as ("optimizer.learning_rate", value) pairs."""
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def write_config(config: ConfigDict, path: Path) -> None:
    """Writes a config as JSON."""
    path.write_text(json.dumps(config.to_dict(), indent=2) + "\n")


def read_config(path: Path) -> ConfigDict:
    """Reads what `write_config` wrote; JSON's lists become the tuples they were."""
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} not found: {path.parent} is not a run's workdir") from None
    except ValueError:
        raise UserError(f"{path} is not valid JSON; restore it or start a new --workdir") from None
    config = ConfigDict(_tuples(values)).lock()
    validate(config)
    return config


def check_same_run(saved: ConfigDict, config: ConfigDict) -> None:
    """Raises a UserError where a run would be resumed with a config that computes otherwise."""
    before = dict(flatten(saved))
    free = RESUMABLE_KEYS if config.schedule.name == "cosine" else (*RESUMABLE_KEYS, "num_steps")
    for key, value in flatten(config):
        if before[key] != value and not key.startswith(free):
            raise UserError(
                f"the workdir holds a run with {key}={before[key]!r}, this one has {value!r}: "
                "give another --workdir or the same config"
            )


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
