"""Files of weights, good and bad; nothing in them is ever run."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from medclip_jax.convert.weight_files import read_weights
from medclip_jax.errors import UserError

torch = pytest.importorskip("torch")

ARRAYS = {
    "layer.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "layer.bias": np.ones(3, np.float32),
}


def tensors() -> dict[str, object]:
    return {name: torch.from_numpy(array) for name, array in ARRAYS.items()}


def assert_arrays(found: dict[str, np.ndarray]) -> None:
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_safetensors_file(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "a.safetensors")
    weights = read_weights(str(tmp_path / "a.safetensors"))
    assert_arrays(weights.arrays)
    assert weights.config == {}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
def test_a_pytorch_file(tmp_path: Path, suffix: str, wrapper: str | None) -> None:
    state: dict[str, object] = tensors()
    if wrapper:
        state = {wrapper: {f"module.{name}": value for name, value in state.items()}, "epoch": 3}
    torch.save(state, tmp_path / f"a{suffix}")
    assert_arrays(read_weights(str(tmp_path / f"a{suffix}")).arrays)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    from safetensors.torch import save_file as save_tensors

    state = {name: tensor.bfloat16() for name, tensor in tensors().items()}
    torch.save(state, tmp_path / "a.pt")
    save_tensors(state, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        found = read_weights(str(tmp_path / name)).arrays
        assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
        assert_arrays(found)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("cut", [False, True])
def test_a_directory(tmp_path: Path, name: str, cut: bool) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 4}')
    stem, suffix = name.split(".")
    files = {name: ARRAYS}
    if cut:
        names = [f"{stem}-0000{n}-of-00002.{suffix}" for n in (1, 2)]
        files = {n: {key: ARRAYS[key]} for n, key in zip(names, ARRAYS, strict=True)}
        index = {"weight_map": dict(zip(ARRAYS, names, strict=True))}
        (tmp_path / f"{name}.index.json").write_text(json.dumps(index))
    for file, arrays in files.items():
        if suffix == "bin":
            torch.save({k: torch.from_numpy(v) for k, v in arrays.items()}, tmp_path / file)
        else:
            save_file(arrays, tmp_path / file)
    weights = read_weights(str(tmp_path))
    assert_arrays(weights.arrays)
    assert weights.config == {"hidden_size": 4}


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_is_never_run(tmp_path: Path, how: str) -> None:
    content = {"layer.weight": Evil(tmp_path / "was run")}
    path = tmp_path / "a.pth"
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="holds code, or more than weights, and was not loaded"):
        read_weights(str(path))
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_that_are_cut_short(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch.save(tensors(), path)
    else:
        save_file(ARRAYS, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: round(share * len(whole))])
    with pytest.raises(UserError, match=f"a{suffix}: (damaged or cut short|holds code)") as error:
        read_weights(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no config.json"),
        ({"config.json": "{"}, "not JSON"),
        ({"config.json": "{}"}, "no weights; one of these is needed: model.safetensors"),
        ({"config.json": "{}", "model.safetensors.index.json": "{}"}, "no index of weights"),
        (
            {"config.json": "{}", "model.safetensors.index.json": '{"weight_map": {"a": "../b"}}'},
            "names files outside",
        ),
    ],
)
def test_directories_that_cannot_be_used(tmp_path: Path, files: dict, message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_weights(str(tmp_path))


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match="weights must be in one of .safetensors, .pth"):
        read_weights(str(tmp_path / "a.txt"))
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        read_weights(str(tmp_path / "a.pth"))
    with pytest.raises(UserError, match="none.pth: no such file or directory"):
        read_weights(str(tmp_path / "none.pth"))


def test_a_hub_name_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match="hf download org/model --local-dir DIR, then give DIR"):
        read_weights("org/model")


def test_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    (tmp_path / "config.json").write_text("{}")
    save_file(ARRAYS, tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert_arrays(read_weights("org/model").arrays)
