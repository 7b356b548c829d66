"""Training, saving and loading tokenisers; token ids against Hugging Face Transformers."""

import hashlib
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from medclip_jax.data import tokenizer
from medclip_jax.errors import UserError

SENTENCES = [
    "The lungs are clear. No pleural effusion or pneumothorax is seen.",
    "There is a 1.5 cm nodule in the left upper lobe, unchanged since ___.",
    "Mild cardiomegaly; interstitial oedema (Kerley's lines) -- ±2° tilt.",
    "XXXX catheter ends in the superior vena cava. É vidente à gauche: 50 µg/m².",
    "1. No acute cardiopulmonary process.\n 2. Low lung volumes.",
]
TRAIN = (
    "import sys; from medclip_jax.data.tokenizer import train_wordpiece;"
    "texts = [f'{w}{n} nodule ±{n}° of the lung' for n in range(60) for w in 'abcdefgh'];"
    "train_wordpiece(texts + texts, 300, sys.argv[1])"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("trained")
    tokenizer.train_wordpiece(SENTENCES * 3, 260, path)
    return path


def write_vocabulary(directory: pathlib.Path, tokens: list[str]) -> None:
    (directory / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")


def test_ids_are_those_of_auto_tokenizer(directory: pathlib.Path) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(directory)
    ours = tokenizer.load_tokenizer(directory)
    assert len(reference) == ours.vocab_size
    assert (reference.pad_token_id, reference.mask_token_id) == (ours.pad_id, ours.mask_id)
    texts = [*SENTENCES, "", "UNSEEN 漢字 words\tAND ünïcode", "a" * 300]
    for length in (5, 24):
        expected = reference(
            texts, max_length=length, truncation=True, padding="max_length", return_tensors="np"
        )
        token_ids, token_mask = ours.encode_batch(texts, length)
        np.testing.assert_array_equal(token_ids, expected["input_ids"])
        np.testing.assert_array_equal(token_mask, expected["attention_mask"].astype(bool))


def test_vocab_txt_alone_gives_the_same_ids(
    directory: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "vocab.txt").write_bytes((directory / "vocab.txt").read_bytes())
    for ours, theirs in zip(
        tokenizer.load_tokenizer(tmp_path).encode_batch(SENTENCES, 20),
        tokenizer.load_tokenizer(directory).encode_batch(SENTENCES, 20),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_training_is_deterministic_across_processes(tmp_path: pathlib.Path) -> None:
    digests = set()
    for run in range(3):  # every process orders its hash maps anew
        subprocess.run([sys.executable, "-c", TRAIN, str(tmp_path / str(run))], check=True)
        files = sorted((tmp_path / str(run)).iterdir())
        digests.add(hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest())
    assert len(digests) == 1


def test_shape_truncation_and_padding(directory: pathlib.Path) -> None:
    ours = tokenizer.load_tokenizer(directory)
    token_ids, token_mask = ours.encode_batch(["lungs " * 50, "", "lungs"], 6)
    assert token_ids.dtype == np.int32 and token_mask.dtype == np.bool_
    assert token_ids.shape == token_mask.shape == (3, 6)
    begin, end = token_ids[1, :2]
    assert (ours.decode([begin]), ours.decode([end])) == ("", "")
    assert token_mask.sum(axis=1).tolist() == [6, 2, token_mask[2].sum()]
    assert (token_ids[:, 0] == begin).all() and token_ids[0, 5] == end
    assert (token_ids[~token_mask] == ours.pad_id).all()
    assert ours.encode_batch([], 6)[0].shape == (0, 6)


def test_a_text_is_cut_where_it_has_more_tokens_than_fit(directory: pathlib.Path) -> None:
    ours = tokenizer.load_tokenizer(directory)
    texts = [*SENTENCES, "", "lungs", "lungs " * 500]
    num_tokens = ours.encode_batch(texts, 1000)[1].sum(axis=1)
    for length in (2, 3, *sorted(num_tokens)[1:5]):  # some fit exactly
        token_ids, token_mask, is_cut = ours.encode_and_tell_cuts(texts, int(length))
        np.testing.assert_array_equal(is_cut, num_tokens > length)
        for ours_now, plain in zip(
            (token_ids, token_mask), ours.encode_batch(texts, int(length)), strict=True
        ):
            np.testing.assert_array_equal(ours_now, plain)
    assert ours.encode_and_tell_cuts([], 6)[2].shape == (0,)


def test_no_room_for_the_special_tokens_is_an_error(directory: pathlib.Path) -> None:
    for length in (0, 1):
        with pytest.raises(UserError, match=f"{length} tokens has no room for the 2 special ones"):
            tokenizer.load_tokenizer(directory).encode_batch(["lungs are clear"], length)


def test_the_placeholder_has_words_of_several_pieces() -> None:
    ours = tokenizer.placeholder_tokenizer(60)
    assert ours.vocab_size == 60
    pieces = [token for token in ours.tokens if token.startswith("##")]
    assert len(pieces) == 27 and ours.mask_id in ours.special_ids


def test_words_of_the_corpus_become_whole_tokens(directory: pathlib.Path) -> None:
    ours = tokenizer.load_tokenizer(directory)
    token_ids, token_mask = ours.encode_batch(["The Pneumothorax"], 8)
    assert token_mask.sum() == 4  # with the two that begin and end the text
    assert ours.decode(token_ids[0]) == "the pneumothorax"
    assert ours.vocab_size <= 260


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), max_size=4), st.integers(3, 12))
def test_any_text_encodes(directory: pathlib.Path, texts: list[str], length: int) -> None:
    token_ids, token_mask = tokenizer.load_tokenizer(directory).encode_batch(texts, length)
    assert token_ids.shape == (len(texts), length)
    assert ((0 <= token_ids) & (token_ids < 260)).all()
    assert (token_mask[:, :2]).all()


def test_cased_vocabularies_are_honoured(tmp_path: pathlib.Path) -> None:
    write_vocabulary(tmp_path, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Lung", "lung"])
    assert tokenizer.load_tokenizer(tmp_path).encode_batch(["Lung"], 3)[0].tolist() == [[2, 6, 3]]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert tokenizer.load_tokenizer(tmp_path).encode_batch(["Lung"], 3)[0].tolist() == [[2, 5, 3]]


def test_odd_line_separators_in_a_vocabulary_count_as_tokens(tmp_path: pathlib.Path) -> None:
    write_vocabulary(tmp_path, ["[PAD]", "\u2028", "[UNK]", "[CLS]", "[SEP]", "lung"])
    assert tokenizer.load_tokenizer(tmp_path).encode_batch(["lung"], 3)[0].tolist() == [[3, 5, 4]]


def test_other_names_of_special_tokens(tmp_path: pathlib.Path) -> None:
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "lung": 7}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.save(str(tmp_path / "tokenizer.json"))
    names = {"pad_token": "<pad>", "mask_token": {"content": "<mask>"}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    ours = tokenizer.load_tokenizer(tmp_path)
    assert (ours.pad_id, ours.vocab_size) == (1, 8)  # ids may have gaps
    assert ours.tokens == ["<s>", "<pad>", "</s>", "<unk>", "", "", "", "lung"]
    assert ours.encode_batch(["lung ?"], 3)[0].tolist() == [[7, 3, 1]]
    with pytest.raises(UserError, match="no mask_token.*<mask>"):
        _ = ours.mask_id


def test_what_is_no_tokenizer(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="no tokenizer here"):
        tokenizer.load_tokenizer(tmp_path / "missing")
    write_vocabulary(tmp_path, ["[PAD]", "[UNK]", "lung"])
    with pytest.raises(UserError, match=r"lacks \[CLS\], \[SEP\]"):
        tokenizer.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer file"):
        tokenizer.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        tokenizer.load_tokenizer(tmp_path)


def test_a_tokenizer_that_cannot_pad_is_refused(tmp_path: pathlib.Path) -> None:
    write_vocabulary(tmp_path, ["[UNK]", "[CLS]", "[SEP]"])
    with pytest.raises(UserError, match="no pad_token"):
        tokenizer.load_tokenizer(tmp_path)


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text_to_train_on(texts: list[str], tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="no text"):
        tokenizer.train_wordpiece(texts, 100, tmp_path)


def test_tokens_and_special_ids_are_those_of_auto_tokenizer(directory: pathlib.Path) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(directory)
    ours = tokenizer.load_tokenizer(directory)
    assert ours.tokens == reference.convert_ids_to_tokens(range(ours.vocab_size))
    assert ours.special_ids == tuple(sorted(reference.all_special_ids))


def test_special_tokens_that_only_one_file_names(tmp_path: pathlib.Path) -> None:
    """The backend may know more of them than the map, and the map more than the backend."""
    vocabulary = {"<pad>": 0, "<unk>": 1, "lung": 2}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.add_special_tokens(["<view>"])
    backend.add_tokens(["effusion"])
    backend.save(str(tmp_path / "tokenizer.json"))
    names = {"pad_token": "<pad>", "unk_token": "<unk>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    ours = tokenizer.load_tokenizer(tmp_path)
    assert [ours.tokens[i] for i in ours.special_ids] == ["<pad>", "<unk>", "<view>"]
    assert ours.tokens == ["<pad>", "<unk>", "lung", "<view>", "effusion"]
