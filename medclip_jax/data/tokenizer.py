"""Tokenisers: train WordPiece on a corpus, load any Hugging Face one, encode batches of text."""

import functools
import json
import string
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Bool, Int32
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from medclip_jax.errors import UserError

PAD, UNKNOWN, CLASSIFY, SEPARATE, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = {
    "pad_token": PAD,
    "unk_token": UNKNOWN,
    "cls_token": CLASSIFY,
    "sep_token": SEPARATE,
    "mask_token": MASK,
}


class Tokenizer:
    """Turns texts into token ids of one length.

    Attributes:
        vocab_size: one more than the largest token id, so the rows an embedding table needs.
        pad_id: the id that fills a row after its text.
    """

    def __init__(self, backend: tokenizers.Tokenizer, special_tokens: dict[str, str]) -> None:
        self._backend = backend
        self._special_tokens = special_tokens
        self.vocab_size = max(backend.get_vocab().values()) + 1
        self.pad_id = self._special_id("pad_token")
        self._fixed_length = functools.cache(self._with_fixed_length)

    @property
    def mask_id(self) -> int:
        """The id of the token that stands for a masked one; a `UserError` where there is none."""
        return self._special_id("mask_token")

    @property
    def special_ids(self) -> tuple[int, ...]:
        """The ids of the tokens that are no text: padding, beginning, end, mask, unknown, ...."""
        added = self._backend.get_added_tokens_decoder()
        special = {token_id for token_id, token in added.items() if token.special}
        named = map(self._backend.token_to_id, self._special_tokens.values())
        return tuple(sorted(special | {token_id for token_id in named if token_id is not None}))

    @property
    def tokens(self) -> list[str]:
        """The token of each id; "" where an id has none."""
        tokens = [""] * self.vocab_size
        for token, token_id in self._backend.get_vocab().items():
            tokens[token_id] = token
        return tokens

    def encode_batch(
        self, texts: Sequence[str], max_length: int
    ) -> tuple[Int32[np.ndarray, "batch length"], Bool[np.ndarray, "batch length"]]:
        """Token ids and the mask of real tokens, cut or padded to `max_length`.

        The special tokens that begin and end a text stay when a text is cut; an empty text gives
        just these.
        """
        return self.encode_and_tell_cuts(texts, max_length)[:2]

    def encode_and_tell_cuts(
        self, texts: Sequence[str], max_length: int
    ) -> tuple[
        Int32[np.ndarray, "batch length"],
        Bool[np.ndarray, "batch length"],
        Bool[np.ndarray, " batch"],
    ]:
        """As `encode_batch`, and which texts were cut: their last token is not where they end."""
        encodings = self._fixed_length(max_length).encode_batch_fast(list(texts))
        token_ids = np.array([encoding.ids for encoding in encodings], np.int32)
        token_mask = np.array([encoding.attention_mask for encoding in encodings], np.bool_)
        is_cut = np.array([bool(encoding.overflowing) for encoding in encodings], np.bool_)
        return token_ids.reshape(-1, max_length), token_mask.reshape(-1, max_length), is_cut

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the ids, without special tokens."""
        return self._backend.decode(list(token_ids))

    def save(self, directory: str | Path, max_length: int) -> None:
        """Writes the files that `load_tokenizer` and Transformers' `AutoTokenizer` read.

        Args:
            directory: is made where it does not exist.
            max_length: tokens of a text, where `AutoTokenizer` cuts or pads it when asked to.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._backend.save(str(directory / "tokenizer.json"))
        # Transformers gives a token that the vocabulary lacks a new id, beyond the model's table.
        special_tokens = {
            role: token
            for role, token in self._special_tokens.items()
            if self._backend.token_to_id(token) is not None
        }
        config = {
            # The one class that takes tokenizer.json as it is, for every kind of tokenizer.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_length,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            **special_tokens,
        }
        _write_json(directory / "tokenizer_config.json", config)
        _write_json(directory / "special_tokens_map.json", special_tokens)

    def _with_fixed_length(self, max_length: int) -> tokenizers.Tokenizer:
        # A copy: truncation and padding are state of the backend, which threads share.
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        num_special = backend.num_special_tokens_to_add(is_pair=False)
        if max_length < num_special:  # the backend would then leave texts as long as they are
            raise UserError(
                f"a text of {max_length} tokens has no room for the {num_special} special ones "
                "that the tokenizer adds; raise config.text_encoder.max_length"
            )
        backend.enable_truncation(max_length)
        backend.enable_padding(
            length=max_length, pad_id=self.pad_id, pad_token=self._special_tokens["pad_token"]
        )
        return backend

    def _special_id(self, role: str) -> int:
        token = self._special_tokens.get(role, "")
        token_id = self._backend.token_to_id(token) if token else None
        if token_id is None:
            raise UserError(f"the tokenizer has no {role} ({token or 'none named'}); use another")
        return token_id


def train_wordpiece(texts: Iterable[str], vocab_size: int, directory: str | Path) -> None:
    """Trains a lower-case WordPiece vocabulary and saves it as a Hugging Face tokenizer directory.

    The same texts give the same files. The vocabulary is smaller than `vocab_size` if the texts do
    not hold that many word pieces.

    Raises:
        UserError: there is no text.
    """
    texts = list(texts)
    normalizer = normalizers.BertNormalizer(lowercase=True)
    characters = sorted(set().union(*(normalizer.normalize_str(text) for text in texts)))
    if not characters:
        raise UserError("no text to train a tokenizer on; name a tokenizer directory instead")
    # The trainer numbers the pieces inside a word in an order that differs from run to run, and
    # breaks ties between pairs by these numbers; named as special tokens they have fixed numbers.
    inside_a_word = [f"##{character}" for character in characters if _joins_words(character)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*SPECIAL_TOKENS.values(), *inside_a_word],
        show_progress=False,
    )
    trained = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    trained.normalizer = normalizer
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trained.train_from_iterator(texts, trainer)
    vocabulary = trained.get_vocab(with_added_tokens=False)
    _save(_bert_backend(vocabulary, normalizer), Path(directory))


def placeholder_tokenizer(vocab_size: int) -> Tokenizer:
    """A BERT tokenizer of tokens that no text has, where only their number counts.

    Every second one continues a word, so that whole words can be masked.
    """
    count = vocab_size - len(SPECIAL_TOKENS)
    words = [f"##{number}" if number % 2 else f"word{number}" for number in range(count)]
    tokens = [*SPECIAL_TOKENS.values(), *words]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return Tokenizer(_bert_backend(vocabulary, normalizers.BertNormalizer()), SPECIAL_TOKENS)


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a Hugging Face directory: `tokenizer.json`, or only BERT's `vocab.txt`.

    Raises:
        UserError: neither file is there, one cannot be read, or the tokenizer cannot pad.
    """
    directory = Path(directory)
    config = _read_json(directory / "tokenizer_config.json")
    named = {**_read_json(directory / "special_tokens_map.json"), **config}
    special_tokens = SPECIAL_TOKENS | {
        role: token["content"] if isinstance(token, dict) else token
        for role, token in named.items()
        if role in SPECIAL_TOKENS and token
    }
    return Tokenizer(_read_backend(directory, config), special_tokens)


def _read_backend(directory: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    whole, vocabulary = directory / "tokenizer.json", directory / "vocab.txt"
    if whole.exists():
        try:
            return tokenizers.Tokenizer.from_file(str(whole))
        except Exception as error:  # the library raises nothing more precise
            raise UserError(f"{whole}: not a tokenizer file ({error})") from error
    if not vocabulary.exists():
        raise UserError(f"{directory}: no tokenizer here (neither tokenizer.json nor vocab.txt)")
    tokens = vocabulary.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    missing = {UNKNOWN, CLASSIFY, SEPARATE} - set(tokens)
    if missing:
        raise UserError(
            f"{vocabulary}: not a BERT vocabulary, it lacks {', '.join(sorted(missing))}"
        )
    normalizer = normalizers.BertNormalizer(
        lowercase=config.get("do_lower_case", True),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
    )
    return _bert_backend({token: index for index, token in enumerate(tokens)}, normalizer)


def _bert_backend(
    vocabulary: dict[str, int], normalizer: normalizers.BertNormalizer
) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(
        (SEPARATE, vocabulary[SEPARATE]), (CLASSIFY, vocabulary[CLASSIFY])
    )
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([t for t in SPECIAL_TOKENS.values() if t in vocabulary])
    return backend


def _save(backend: tokenizers.Tokenizer, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    vocabulary = backend.get_vocab()
    lines = "".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.__getitem__))
    (directory / "vocab.txt").write_text(lines, encoding="utf-8")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **SPECIAL_TOKENS}
    _write_json(directory / "tokenizer_config.json", config)
    _write_json(directory / "special_tokens_map.json", SPECIAL_TOKENS)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _joins_words(character: str) -> bool:
    """Whether BERT's rules let the character stand inside a word."""
    punctuation = character in string.punctuation or unicodedata.category(character)[0] == "P"
    return not (punctuation or character.isspace())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
