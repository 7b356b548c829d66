"""`python -m benchmarks.systems` asks for evaluations that exist, once, and finds their figures."""

import json

import pytest

from medclip_jax.evaluate.result import EvaluationResult
from medclip_jax.evaluate.tasks import make_request

MODES = ("linear", "finetune")
LOG = [{"step": 10, "steps_per_second": 2.0}, {"step": 10, "evaluation_seconds": 1.0}]


@pytest.fixture
def systems(monkeypatch):
    """The benchmark with training and evaluations that take no time; `calls` lists them."""
    from benchmarks import systems

    figures = [*systems.FIGURES, *systems._efficiency_figures(MODES)]
    metrics = {beside + metric: 0.5 for *_, metric, beside in figures}
    metrics |= {metric: 0.7 for *_, metric, _ in figures}
    calls = []

    def pretrain(config, workdir):
        calls.append(("pretrain", workdir.name))
        workdir.mkdir(exist_ok=True)
        (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, LOG)))

    def run_task(task, checkpoint, dataset, *, data_dir, **options):
        calls.append((task, checkpoint.name))
        output = checkpoint / "evaluations"
        request = make_request(task, dataset, "test", data_dir, output, options)
        result = EvaluationResult(metrics, {"macro_auroc": (0.6, 0.8)}, 2, 2, {})
        result.write_or_rescue(request)

    monkeypatch.setattr(systems.runtime, "start", lambda: None)
    monkeypatch.setattr(systems, "build", lambda *_, **__: "built")
    monkeypatch.setattr(systems, "pretrain", pretrain)
    monkeypatch.setattr(systems, "run_task", run_task)
    monkeypatch.setattr(systems, "calls", calls, raising=False)
    return systems


def test_a_row_for_each_figure_and_no_evaluation_twice(systems, tmp_path, capsys):
    systems.main(tmp_path, MODES)
    rows = json.loads((tmp_path / "systems.json").read_text())
    assert [row["value"] for row in rows[-5:]] == [6.0] * 5  # 10 steps of half a second, and 1
    assert {row["value"] for row in rows[:-5]} == {0.7}
    beside = [row["beside"] for row in rows if row["metric"] == "macro_auroc"]
    assert beside == [["random initialization", 0.5]] * 6
    assert f"written to {tmp_path / 'systems.json'}" in capsys.readouterr().out
    first = set(systems.calls)
    probes = {(task, name) for name in systems.CONFIGS for task in ("pretrain", "linear-probe")}
    assert first >= probes | {("retrieval", "matching"), ("label-efficiency", "convirt")}
    systems.calls.clear()
    systems.main(tmp_path, MODES)
    assert {task for task, _ in systems.calls} == {"pretrain"}  # which goes on by itself
