"""Every documented command that pretrains loads, fits together and freezes nothing random."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import tiny

from medclip_jax.config import load_config
from medclip_jax.data.tokenizer import placeholder_tokenizer
from medclip_jax.errors import UserError
from medclip_jax.train.step_parts import StepParts, check_frozen_are_given

ROOT = Path(__file__).parents[2]
PLACES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / "launch" / name for name in ("README.md", "slurm.sbatch", "tpu_pod.sh", "local.sh")),
    *sorted((ROOT / "configs").glob("*.py")),
]
STARTS = re.compile(r"medclip-jax pretrain --config|launch/(slurm\.sbatch|tpu_pod\.sh) .*configs/")

Command = tuple[str, tuple[str, ...]]  # a config, and its overrides or --plan


def commands_of(text: str) -> Iterator[Command]:
    """The commands of a text, those of a loop once for each of its words."""
    words = re.search(r"for system in ([\w ]+); do", text)
    variables = re.findall(r"^([A-Z]+)='(.*)'$", text, re.MULTILINE)
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not STARTS.search(line):
            continue
        for word in words[1].split() if words and "$system" in line else ("",):
            tokens = shlex.split(line.strip(" `#").replace("$system", word), comments=True)
            for name, value in variables:
                tokens = [token.replace(f"${name}", value) for token in tokens]
            config = next(token for token in tokens if token.startswith("configs/"))
            yield config, tuple(token for token in tokens if re.match("--(config.|plan)", token))


def documented() -> list[Command]:
    found = {command for place in PLACES for command in commands_of(place.read_text())}
    *_, job = yaml.safe_load_all((ROOT / "launch/kubernetes.yaml").read_text())
    config, _, *overrides = job["spec"]["template"]["spec"]["containers"][0]["args"]
    return sorted(found | {(config, tuple(overrides))})


def test_all_places_are_read() -> None:
    configs = [config for config, _ in documented()]
    assert {f"configs/{name}.py" for name in tiny.CONFIGS} <= set(configs)
    assert configs.count("configs/convirt.py:large") >= 3  # of the three launchers


@pytest.mark.parametrize(("config", "overrides"), documented())
def test_a_documented_command_is_consistent(config: str, overrides: tuple[str, ...]) -> None:
    loaded = load_config(str(ROOT / config), [o for o in overrides if o != "--plan"])
    mesh = tiny.one_device()
    if loaded.optimizer.frozen and "--plan" not in overrides:
        check_frozen_are_given(loaded, mesh)  # which makes the parts too
        return
    StepParts.make(loaded, mesh, placeholder_tokenizer(loaded.tokenizer.vocab_size), num_labels=1)


def test_convirt_without_weights_is_refused() -> None:
    with pytest.raises(UserError, match=r"give --config.text_encoder.init=WEIGHTS, or train it"):
        check_frozen_are_given(load_config("convirt.py"), tiny.one_device())
