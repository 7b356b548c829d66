"""Batches: what rows show, and that they follow from (seed, step) alone."""

import collections
import json

import ml_collections
import numpy as np
import pytest

from medclip_jax.data import build, pipeline
from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.errors import UserError

MAX_LENGTH = 16


def iterate(data_config: ml_collections.ConfigDict, small_tokenizer: Tokenizer, **changed):
    arguments = {"seed": 0, "batch_size": 8, "tokenizer": small_tokenizer} | changed
    return pipeline.make_iterator(data_config, max_length=MAX_LENGTH, **arguments)


def take(iterator, number: int) -> list[pipeline.Batch]:
    return [next(iterator) for _ in range(number)]


def assert_equal(batches: list[pipeline.Batch], expected: list[pipeline.Batch]) -> None:
    assert len(batches) == len(expected)
    for batch, expected_batch in zip(batches, expected, strict=True):
        assert batch.keys() == expected_batch.keys()
        for key, value in batch.items():
            np.testing.assert_array_equal(value, expected_batch[key], err_msg=key)


def study_numbers(batch: pipeline.Batch) -> list[int]:
    """Which study each row shows, by its grey level; 1 is the one without images."""
    levels = batch["image"].reshape(len(batch["image"]), -1).max(axis=1).astype(int)
    return [1 if level == 0 else round((level - 15) / 10) for level in levels]


def texts(batch: pipeline.Batch, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(token_ids) for token_ids in batch["token_ids"]]


def test_shapes_and_types(data_config, small_tokenizer) -> None:
    batch = next(iterate(data_config, small_tokenizer))
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        "image": ((8, 32, 32), "uint8"),
        "token_ids": ((8, MAX_LENGTH), "int32"),
        "token_mask": ((8, MAX_LENGTH), "bool"),
        "group_ids": ((8, 2), "int32"),
        "has_image": ((8,), "bool"),
        "has_text": ((8,), "bool"),
        "text_is_cut": ((8,), "bool"),
    }


def test_image_and_text_of_a_row_come_from_one_study(data_config, small_tokenizer) -> None:
    for batch in take(iterate(data_config, small_tokenizer), 9):
        for number, text, has_image, has_text in zip(
            study_numbers(batch),
            texts(batch, small_tokenizer),
            batch["has_image"],
            batch["has_text"],
            strict=True,
        ):
            assert has_image == (number != 1)
            assert has_text == (number != 0)
            possible = [f"{kind} {number} is" for kind in ("alpha finding", "beta finding")]
            possible.append(f"gamma impression {number} is")
            assert not has_text or any(text.startswith(start) for start in possible)
            assert has_text or text == ""


def test_missing_modalities_are_black_and_empty(data_config, small_tokenizer) -> None:
    empty_ids, empty_mask = small_tokenizer.encode_batch([""], MAX_LENGTH)
    missing = collections.Counter()
    for batch in take(iterate(data_config, small_tokenizer), 3):
        missing["image"] += (~batch["has_image"]).sum()
        missing["text"] += (~batch["has_text"]).sum()
        assert (batch["image"][~batch["has_image"]] == 0).all()
        assert (batch["token_ids"][~batch["has_text"]] == empty_ids).all()
        assert (batch["token_mask"][~batch["has_text"]] == empty_mask).all()
    assert missing == {"image": 1, "text": 1}  # an epoch of 24 studies


def test_each_epoch_shows_each_study_once_in_another_order(data_config, small_tokenizer) -> None:
    iterator = iterate(data_config, small_tokenizer)
    epochs = [sum(map(study_numbers, take(iterator, 3)), []) for _ in range(4)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_every_image_and_sentence_is_drawn_equally_often(data_config, small_tokenizer) -> None:
    tall, sentences = [], collections.Counter()
    for batch in take(iterate(data_config, small_tokenizer), 120):  # 40 epochs
        shown = batch["image"][batch["has_image"]]
        tall += list(shown[:, 0].max(axis=1) > 0)
        sentences.update(text.split(" ")[0] for text in texts(batch, small_tokenizer) if text)
    # 920 draws each: four standard deviations are 0.066 of an image, 0.062 of a sentence.
    assert np.mean(tall) == pytest.approx(1 / 2, abs=0.066)
    assert set(sentences) == {"alpha", "beta", "gamma"}
    for count in sentences.values():
        assert count / sentences.total() == pytest.approx(1 / 3, abs=0.062)


def test_another_seed_gives_other_batches(data_config, small_tokenizer) -> None:
    first, second = (next(iterate(data_config, small_tokenizer, seed=seed)) for seed in (0, 1))
    assert study_numbers(first) != study_numbers(second)


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_hold_blocks_of_the_same_batches(
    data_config, small_tokenizer, process_count: int
) -> None:
    whole = take(iterate(data_config, small_tokenizer), 5)
    parts = [
        take(
            iterate(
                data_config,
                small_tokenizer,
                rows=range(8)[index * 8 // process_count : (index + 1) * 8 // process_count],
            ),
            5,
        )
        for index in range(process_count)
    ]
    joined = [
        {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
        for batches in zip(*parts, strict=True)
    ]
    assert_equal(joined, whole)


@pytest.mark.parametrize(("num_threads", "prefetch"), [(0, 0), (1, 1), (8, 3)])
def test_batches_do_not_depend_on_threads(
    data_config, small_tokenizer, num_threads: int, prefetch: int
) -> None:
    expected = take(iterate(data_config, small_tokenizer), 7)
    data_config.num_threads, data_config.prefetch = num_threads, prefetch
    assert_equal(take(iterate(data_config, small_tokenizer), 7), expected)


def test_the_state_restores_exactly_with_other_threads_and_processes(
    data_config, small_tokenizer
) -> None:
    iterator = iterate(data_config, small_tokenizer)
    take(iterator, 4)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = take(iterator, 4)
    restored = iterate(data_config, small_tokenizer)
    next(restored)
    restored.set_state(state)
    assert_equal(take(restored, 4), expected)
    data_config.num_threads = 1
    half = iterate(data_config, small_tokenizer, rows=range(4, 8))
    half.set_state(state)
    assert_equal(
        take(half, 4), [{key: value[4:] for key, value in batch.items()} for batch in expected]
    )


def test_group_ids_mark_siblings(data_config, small_tokenizer) -> None:
    by_study, by_text = {}, {}
    for batch in take(iterate(data_config, small_tokenizer), 30):
        for number, text, (study, sentence) in zip(
            study_numbers(batch),
            texts(batch, small_tokenizer),
            batch["group_ids"].tolist(),
            strict=True,
        ):
            assert by_study.setdefault(number, study) == study
            if text:
                assert by_text.setdefault(text, sentence) == sentence
    assert len(set(by_study.values())) == len(by_study) == 24
    assert len(set(by_text.values())) == len(by_text) == 69


def test_rows_without_text_are_no_siblings(data_config, small_tokenizer) -> None:
    hashes = [
        batch["group_ids"][~batch["has_text"], 1]
        for batch in take(iterate(data_config, small_tokenizer), 30)
    ]
    values = np.concatenate(hashes).tolist()
    assert len(set(values)) == len(values) == 10


def test_whole_reports(data_config, small_tokenizer) -> None:
    data_config.text, data_config.sections = "report", ("impression", "findings")
    batch = next(iterate(data_config, small_tokenizer, batch_size=24))
    for number, text in zip(study_numbers(batch), texts(batch, small_tokenizer), strict=True):
        if number:
            assert text.startswith(f"gamma impression {number} is given")
            assert "alpha" in text


def test_only_the_selected_sections_are_shown(data_config, small_tokenizer) -> None:
    data_config.sections = ("impression",)
    shown = texts(next(iterate(data_config, small_tokenizer, batch_size=24)), small_tokenizer)
    assert {text[:5] for text in shown} == {"gamma", ""}


def test_sets_are_mixed_by_weight(prepared, data_config, small_tokenizer, write_csv) -> None:
    rows = [{"text": f"Alpha beta gamma {n}.", "image_path": ""} for n in range(30)]
    manifest = write_csv(prepared.source / "texts.csv", rows)
    if not (prepared.data_dir / "manifest" / "texts").exists():
        build.build_manifest("texts", manifest, prepared.source, data_dir=prepared.data_dir)
    data_config.mixture = ((prepared.name, 3.0), ("manifest/texts", 1.0))
    iterator = iterate(data_config, small_tokenizer)
    shown = sum((texts(batch, small_tokenizer) for batch in take(iterator, 12)), [])
    from_texts = [text for text in shown if text.startswith("alpha beta gamma")]
    assert len(from_texts) == 24 and len(set(from_texts)) == 24


def test_a_mixture_of_one_set_is_that_set(prepared, data_config, small_tokenizer) -> None:
    expected = take(iterate(data_config, small_tokenizer), 2)
    data_config.mixture = ((prepared.name, 5.0),)
    assert_equal(take(iterate(data_config, small_tokenizer), 2), expected)


def test_validation_batches_are_always_the_same(data_config, small_tokenizer) -> None:
    def batches(num_batches: int, batch_size: int, **changed) -> list[pipeline.Batch]:
        arguments = {"seed": 0, "tokenizer": small_tokenizer, "max_length": MAX_LENGTH} | changed
        return list(
            pipeline.validation_batches(
                data_config, num_batches, batch_size=batch_size, **arguments
            )
        )

    first = batches(2, 2)
    assert_equal(batches(2, 2), first)
    assert len(batches(50, 2)) == 3  # the split has 6 studies
    shown = sum((study_numbers(batch) for batch in batches(3, 2)), [])
    assert sorted(shown) == list(range(6))
    half = batches(2, 2, rows=[1])
    assert_equal(half, [{key: value[1:] for key, value in batch.items()} for batch in first])
    (small,) = batches(5, 8)  # larger than the split: rows of one study are siblings
    assert len(set(small["group_ids"][:, 0].tolist())) == 6


def test_corpus(data_config) -> None:
    texts_of_corpus = list(pipeline.corpus(data_config))
    assert len(texts_of_corpus) == 23
    assert all("Alpha" in text and "INDICATION" not in text for text in texts_of_corpus)
    data_config.sections = ("technique",)
    with pytest.raises(UserError, match="no training study of manifest/small has any text"):
        list(pipeline.corpus(data_config))


@pytest.mark.parametrize(
    ("changed", "arguments", "message"),
    [
        ({}, {"batch_size": 25}, "batch_size 25 is larger than the 24 studies"),
        ({"text": "word"}, {}, "must be one of sentence, section, report, not 'word'"),
        ({"mixture": (("manifest/small", 0.0),)}, {}, "must be above 0"),
        ({"dataset": "manifest/other"}, {}, "not prepared"),
    ],
)
def test_settings_that_cannot_work(
    data_config, small_tokenizer, changed: dict, arguments: dict, message: str
) -> None:
    config = ml_collections.ConfigDict(data_config.to_dict() | changed)
    with pytest.raises(UserError, match=message):
        iterate(config, small_tokenizer, **arguments)


def with_changes(config: ml_collections.ConfigDict, **changed) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(config.to_dict() | changed)


def test_a_modality_can_be_left_out(data_config, small_tokenizer) -> None:
    name = data_config.dataset
    mixture = ((name, 2.0), (name, 1.0, "image"), (name, 1.0, "text"))
    config = with_changes(data_config, mixture=mixture)
    kinds: collections.Counter = collections.Counter()
    for batch in take(iterate(config, small_tokenizer), 24):
        kinds.update(zip(batch["has_image"].tolist(), batch["has_text"].tolist(), strict=True))
    # 192 rows, two epochs of each part; a study has no text and one no image.
    assert kinds[True, True] == 96 - 8 and kinds[False, False] == 4
    assert kinds[True, False] == 4 + 46 and kinds[False, True] == 4 + 46


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ((("manifest/small", 1.0, "sound"),), "give one of both, image, text"),
        ((("manifest/small",),), r"give \(name, weight\[, modality\]\)"),
    ],
)
def test_wrong_mixtures(data_config, small_tokenizer, mixture: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        iterate(with_changes(data_config, mixture=mixture), small_tokenizer)


def test_views_of_a_study_are_next_to_one_another_and_differ(data_config, small_tokenizer) -> None:
    config = with_changes(data_config, text="section")
    for batch in take(iterate(config, small_tokenizer, views_per_study=2), 6):
        numbers = np.array(study_numbers(batch)).reshape(4, 2)
        shown = texts(batch, small_tokenizer)
        np.testing.assert_array_equal(numbers[:, 0], numbers[:, 1])
        np.testing.assert_array_equal(batch["group_ids"][::2, 0], batch["group_ids"][1::2, 0])
        is_tall = batch["image"][:, 0].max(axis=1) > 0
        for number, tall, both in zip(
            numbers[:, 0], is_tall.reshape(4, 2), np.reshape(shown, (4, 2)), strict=True
        ):
            assert number == 1 or tall[0] != tall[1]
            assert number == 0 or both[0] != both[1]


def test_a_batch_holds_whole_studies(data_config, small_tokenizer) -> None:
    with pytest.raises(UserError, match="not a multiple of 3 views"):
        iterate(data_config, small_tokenizer, views_per_study=3)


@pytest.fixture(scope="module")
def labelled(prepared, write_csv, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two more sets without images, `manifest/first` and `manifest/second`, for training only."""
    root = tmp_path_factory.mktemp("labelled")
    for name, labels in (("first", ("Edema", "Mass")), ("second", ("Mass", "Nodule"))):
        rows = [
            {"text": f"{name} study {number}.", "patient_id": number, "study_id": number}
            | {"split": "train", "image_path": ""}
            | {label: float(number % (2 + column)) == 0 for column, label in enumerate(labels)}
            for number in range(8)
        ]
        rows = [{key: int(v) if isinstance(v, bool) else v for key, v in r.items()} for r in rows]
        manifest = write_csv(root / f"{name}.csv", rows)
        build.build_manifest(name, manifest, root, label_columns=labels, data_dir=prepared.data_dir)


def test_labels_of_all_sets_stand_side_by_side(data_config, small_tokenizer, labelled) -> None:
    mixture = (("manifest/first", 1.0), ("manifest/second", 1.0))
    config = with_changes(data_config, mixture=mixture)
    assert pipeline.label_names(config) == ("Edema", "Mass", "Nodule")
    unknown = collections.Counter()
    for batch in take(iterate(config, small_tokenizer), 4):
        assert batch["labels"].shape == (8, 3) and batch["labels"].dtype == np.float32
        unknown.update(map(tuple, np.isnan(batch["labels"]).tolist()))
    assert unknown == {(False, False, True): 16, (True, False, False): 16}
    chosen = with_changes(config, labels=("Nodule",))
    assert next(iterate(chosen, small_tokenizer))["labels"].shape == (8, 1)
    with pytest.raises(UserError, match="no set has 'Hernia'; there are: Edema, Mass, Nodule"):
        pipeline.label_names(with_changes(config, labels=("Hernia",)))


def test_a_mixture_validates_on_the_sets_that_can(data_config, small_tokenizer, labelled) -> None:
    arguments = {"seed": 0, "batch_size": 4, "tokenizer": small_tokenizer, "max_length": 8}
    mixture = (("manifest/small", 1.0), ("manifest/first", 1.0))
    mixed = pipeline.validation_batches(with_changes(data_config, mixture=mixture), 1, **arguments)
    alone = pipeline.validation_batches(data_config, 1, **arguments)
    np.testing.assert_array_equal(next(mixed)["token_ids"], next(alone)["token_ids"])
    with pytest.raises(UserError, match="no split 'validation'"):
        config = with_changes(data_config, dataset="manifest/first")
        pipeline.validation_batches(config, 1, **arguments)
