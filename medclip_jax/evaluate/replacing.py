"""What is where a result goes: figures of the same protocol are replaced, those of another stay."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medclip_jax.errors import UserError
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult, to_json


def require_same_protocol(request: Request) -> None:
    """Raises a UserError if the request's file holds the figures of another protocol."""
    path = _path(request)
    protocol = _read(path).get("protocol")
    if not isinstance(protocol, Mapping):
        return
    theirs, ours = _protocol_of(protocol), _protocol_of(_recorded(request))
    other = sorted(name for name in theirs | ours if theirs.get(name) != ours.get(name))
    if other:
        raise UserError(
            f"{path} holds the figures of another protocol (it differs in {', '.join(other)}): "
            "give another --tag NAME, or another --output"
        )


def describe_replaced(request: Request, result: EvaluationResult) -> str:
    """The figures that the result is about to replace, in words; "" if there are none."""
    path = _path(request)
    if not path.exists():
        return ""
    old = _read(path)
    protocol = old.get("protocol")
    step = protocol.get("step", "unknown") if isinstance(protocol, Mapping) else "unknown"
    weights = _compared(old.get("weights_hash"), result.weights_hash)
    data = _compared(old.get("dataset_hash"), result.dataset_hash)
    return f"replaces the figures of step {step} ({weights} weights, {data} data)"


def _compared(old: str | None, new: str | None) -> str:
    if old is None or new is None:
        return "unknown"
    return "the same" if old == new else "other"


def _path(request: Request) -> Path:
    return request.output / f"{request.name}.json"


def _read(path: Path) -> dict[str, Any]:
    """The content of a result's file; none if there is no such file, or it is damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _recorded(request: Request) -> dict[str, Any]:
    """What a result of the request records, as far as it is needed here."""
    return {
        "task": request.task,
        "dataset": request.dataset,
        "split": request.split,
        "score": request.score,
        "differences": request.differences,
    }


def _protocol_of(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The set, the split and the options that are not the default."""
    place = {name: protocol.get(name) for name in ("task", "dataset", "split")}
    place["score"] = protocol.get("score", "embeddings")
    differences = protocol.get("differences")
    if not isinstance(differences, Mapping):  # of a result from before they were recorded
        differences = _old_differences(protocol)
    return place | to_json(differences)


def _old_differences(protocol: Mapping[str, Any]) -> dict[str, Any]:
    default = to_json(Request("").__dict__)
    skipped = ("dataset", "task", "split", "data_dir", "output", "score")
    return {
        name: protocol[name]
        for name in default
        if name not in skipped and name in protocol and protocol[name] != default[name]
    }
