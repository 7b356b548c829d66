"""Options are checked before any work, and those of another protocol name its files."""

import dataclasses
import json
from pathlib import Path

import pytest

from medclip_jax.errors import UserError
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult
from medclip_jax.evaluate.tasks import TASKS, make_request


def request(task: str = "zero-shot", **options) -> Request:
    return make_request(task, "set/a", "test", None, Path("out"), options)


@pytest.mark.parametrize(
    ("task", "option", "value", "message"),
    [
        ("finetune", "max_epochs", 0, "--max-epochs is 0; give a whole number of 1 or above"),
        ("finetune", "learning_rate", -1.0, "--learning-rate is -1.0; give a number above 0"),
        ("finetune", "learning_rate", float("nan"), "--learning-rate is nan"),
        ("finetune", "learning_rate", float("inf"), "--learning-rate is inf"),
        ("linear-probe", "num_seeds", 0, "--num-seeds is 0"),
        ("linear-probe", "fractions", (0.1, 0), "--fractions is 0; give a share"),
        ("linear-probe", "fractions", (float("nan"),), "--fractions is nan"),
        ("regeneration", "scales", (0,), "--scales is 0"),
        ("regeneration", "ratios", (1.0,), "--ratios is 1.0; give a share above 0 and below 1"),
        ("report-generation", "method", "best", "--method is 'best'; give one of greedy"),
        ("label-efficiency", "compare", (Path("/none/run"),), "--compare /none/run: no such"),
        ("label-efficiency", "compare", (Path(__file__),), "is a file: give a folder"),
        ("retrieval", "image_root", Path(__file__), "is a file: give a folder"),
        ("zero-shot", "prompts", Path("p" * 300), "no such file or folder"),
        ("zero-shot", "prompts", Path(__file__).parent, "is a folder: give a file"),
        *(
            (task, option, value, message)
            for task in ("retrieval", "regeneration")
            for option, value, message in (
                ("num_resamples", 0, "--num-resamples is 0"),
                ("num_resamples", 1, "--num-resamples is 1; give a whole number of 2 or above"),
                ("batch_size", 0, "--batch-size is 0"),
                ("batch_size", 2.5, "--batch-size is 2.5"),
                ("seed", -1, "--seed is -1; give a whole number from 0"),
                ("seed", 2**40, "--seed is"),
                ("tag", "a/b", "--tag is 'a/b'; give letters"),
                ("tag", "", "--tag is ''"),
                ("tag", "a" * 300, "bytes, but 230 are possible: give a shorter --tag"),
            )
        ),
    ],
)
def test_what_is_not_possible_is_refused_in_one_line(task, option, value, message):
    with pytest.raises(UserError) as caught:
        request(task, **{option: value})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_longest_name_can_be_written(tmp_path):
    made = request(tag="a" * (230 - len("zero-shot-set_a-test-")))
    result = EvaluationResult({}, {}, 0, 0, {})
    assert result.write_or_rescue(dataclasses.replace(made, output=tmp_path)).is_file()
    with pytest.raises(UserError, match="build the set by a shorter name"):
        make_request("retrieval", "manifest/" + "é" * 120, "test", None, tmp_path, {})


@pytest.mark.parametrize("task", TASKS)
def test_every_task_takes_seed_resamples_and_batch_size(task):
    made = request(task, seed=3, num_resamples=50, batch_size=8, tag="mine")
    assert (made.seed, made.num_resamples, made.batch_size) == (3, 50, 8)
    assert made.name == f"{task}-set_a-test-mine"


@pytest.mark.parametrize("task", TASKS)
def test_the_default_protocol_has_the_plain_name(task):
    assert request(task).name == f"{task}-set_a-test"
    default = dataclasses.asdict(Request("set/a"))
    given = {name: list(v) if isinstance(v, tuple) else v for name, v in default.items()}
    taken = {name: given[name] for name in TASKS[task][1]} | {"seed": 0, "num_resamples": 1000}
    assert request(task, **taken).name == f"{task}-set_a-test"


def test_every_other_protocol_has_a_name_of_its_own(tmp_path):
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"Edema": {"positive": ["edema"], "negative": ["none"]}}))
    names = [
        request(**options).name
        for options in (
            {},
            {"labels": ("Edema",)},
            {"labels": ("Mass",)},
            {"seed": 1},
            {"num_resamples": 10},
            {"prompts": file},
        )
    ]
    file.write_text(file.read_text().replace("none", "no edema"))
    names.append(request(prompts=str(file)).name)
    names += [
        request("linear-probe", **options).name
        for options in (
            {},
            {"fractions": (0.1,)},
            {"fractions": (0.1, 0.5)},
            {"num_seeds": 5},
        )
    ]
    names += [request("report-generation", method=m).name for m in ("greedy", "beam", "nucleus")]
    names += [request("retrieval", score=s).name for s in ("embeddings", "matching")]
    names += [request("retrieval", queries=(file,)).name]
    names += [request("finetune", **options).name for options in ({}, {"batch_size": 8})]
    assert len(set(names)) == len(names)
    assert "retrieval-matching-set_a-test" in names  # as its name tells, it needs no tag
    again = request(labels=["Edema"])
    assert again.name == names[1] and again.folder == Path("out") / again.name


def test_the_batch_size_is_no_protocol_where_it_only_saves_memory():
    for task in ("retrieval", "zero-shot", "linear-probe", "regeneration"):
        assert request(task, batch_size=8).name == request(task).name
