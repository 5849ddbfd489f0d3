"""The tokenizer of a model: read as its library reads it, kept as one file that says all of it, and that is what runs and exports use."""

from __future__ import annotations

import hashlib
import inspect
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import SourceError
from compressor.files import text_in
from compressor.foreign import told
from compressor.model.sources import gguf_in, read_json
from compressor.tasks.preprocessing import TEXT_INPUTS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
TOKENIZER_FILES = (
    TOKENIZER,
    "vocab.txt",
    TOKENIZER_CONFIG,
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
VOCABULARIES = (TOKENIZER, "vocab.*", "*.model", "*.tiktoken")
SIDES = ("truncation_side", "padding_side", "split_special_tokens")
KEPT = "compressor"
"""The entry of a kept tokenizer's settings by which it is known; the library passes over it."""
WRITTEN = frozenset((KEPT, *SIDES, "pad_token", "pad_token_type_id"))
"""Entries that are always beside it."""
AT_ONCE = 1000
"""Texts that are encoded in one call."""
SAMPLES = (
    "The quick BROWN fox jumps over 13 lazy dogs, and over the moon; then it runs back again to where it came from.",
    " naïve  ÉCOLE\tcafé\n[SEP] </s> <pad> [MASK]",
    "日本語のテスト 😀 #hash @name don't",
    "",
)
"""Texts that a tokenizer and what is kept of it are held against each other by."""
SAMPLED_LENGTH = 16
MOST_TOKENS = 2**24
"""Numbers of tokens: libraries make a place for each one up to the greatest."""


@dataclass(frozen=True, eq=False)
class Tokenization:
    """A tokenizer as runs use it and exports ship it."""

    source: str
    """The content of `tokenizer.json`; empty for one that only its library can run."""
    settings: Mapping[str, Any]
    """Sides of cutting and padding, what is padded with, and whether special tokens in a text are split."""
    names: tuple[str, ...]
    """Inputs of the model that it makes."""
    library: Any
    """The tokenizer of transformers; None for one that was kept, which its file says whole."""
    end: str | None = None
    """The token that ends a text, as it is spelled; None where none is named."""

    def encoded(self, texts: Sequence[Any], max_length: int) -> Iterator[Mapping[str, NDArray[np.int32]]]:
        """Each text, or pair of texts, as rows of numbers by input."""
        import numpy as np

        for at in range(0, len(texts), AT_ONCE):
            for row in self._rows(list(texts[at : at + AT_ONCE]), max_length):
                yield {name: np.asarray(values, dtype=np.int32) for name, values in row.items()}

    def token(self, number: int) -> str:
        """How a token is spelled."""
        if not self.source:
            return str(self.library.convert_ids_to_tokens(number))
        return str(_set_up(self.source, json.dumps({**self.settings, "max_length": SAMPLED_LENGTH})).id_to_token(number))

    @cached_property
    def special(self) -> frozenset[int]:
        """Tokens that stand for no text: ends, separators, masks."""
        if self.library is not None:
            return frozenset(self.library.all_special_ids)
        return frozenset(each["id"] for each in json.loads(self.source).get("added_tokens", ()) if each.get("special"))

    @cached_property
    def unknown(self) -> int | None:
        """The token for what the tokenizer does not know; None where it knows all."""
        if not self.source:
            found: int | None = self.library.unk_token_id
            return found
        model = json.loads(self.source)["model"]
        name = model.get("unk_token")
        made = _set_up(self.source, json.dumps({**self.settings, "max_length": SAMPLED_LENGTH}))
        known: int | None = model.get("unk_id") if name is None else made.token_to_id(name)
        return known

    def unknown_share(self, rows: Iterable[NDArray[np.int32]]) -> float:
        """The share of the tokens of rows, each `[T]`, that stand for what the tokenizer does not know."""
        found = [(int((row == self.unknown).sum()), len(row)) for row in rows]
        return round(sum(count for count, _ in found) / max(sum(length for _, length in found), 1), 4)

    def _rows(self, texts: list[Any], max_length: int) -> list[dict[str, list[int]]]:
        if not self.source:
            made = self.library(*_columns(texts), truncation=True, max_length=max_length)
            return [{name: made[name][number] for name in self.names} for number in range(len(texts))]
        from compressor.tasks.inputs.text import encoded

        return encoded(_set_up(self.source, json.dumps({**self.settings, "max_length": max_length})), texts, self.names)


@lru_cache(maxsize=4)
def _set_up(source: str, how: str) -> Any:
    from compressor.tasks.inputs.text import tokenizer_of

    return tokenizer_of(source, {**json.loads(how), "padded_to": None})


def _columns(texts: list[Any]) -> list[list[Any]]:
    """Texts, or first and second texts."""
    return [texts] if isinstance(texts[0], str) else [list(column) for column in zip(*texts, strict=True)]


# ------------------------------------------------------------------ reading


@dataclass(frozen=True)
class _Files:
    """The same tokenizer lies beside every stage of a run: it is known by its content and not by its place."""

    digest: str
    folder: Path = field(compare=False)

    @classmethod
    def of(cls, folder: Path) -> _Files:
        total = hashlib.sha256()
        for path in tokenizer_files(folder):
            total.update(path.name.encode() + b"\0" + path.read_bytes())
        if single := gguf_in(folder):
            looks = single.stat()
            total.update(f"{single.resolve()}\0{looks.st_size}\0{looks.st_mtime_ns}".encode())
        return cls(total.hexdigest(), folder)


def tokenizer_files(folder: Path) -> list[Path]:
    """Files of a tokenizer that are in a folder."""
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def tokenization(folder: Path) -> Tokenization:
    """The tokenizer beside a model.

    Raises:
        SourceError: there is none, or it cannot be read.
    """
    return _tokenization(_Files.of(folder))


@lru_cache(maxsize=4)
def _tokenization(files: _Files) -> Tokenization:
    return _kept(files.folder) or _of(read_tokenizer(files.folder))


def _kept(folder: Path) -> Tokenization | None:
    """What `side_files` wrote, read without the library: importing it takes longer than all else that a run with nothing to do does."""
    path = folder / TOKENIZER_CONFIG
    config = read_json(path) if path.is_file() else {}
    if not {*WRITTEN, "model_input_names"} <= config.keys() or not (folder / TOKENIZER).is_file():
        return None
    try:
        found = Tokenization(
            text_in(folder / TOKENIZER), settings_in(config), tuple(config["model_input_names"]), None, config.get("eos_token")
        )
        list(found.encoded(SAMPLES, SAMPLED_LENGTH))
    except Exception as error:  # somebody else may have written it, and what the library raises can be anything
        raise SourceError(f"the tokenizer in {folder} cannot be read: {told(error)}") from error
    return found


def settings_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a file that `side_files` wrote; empty where somebody else did."""
    if WRITTEN - config.keys():
        return {}
    sides = {name: config[name] for name in SIDES}
    return {**sides, "pad_token": config["pad_token"], "pad_type_id": config["pad_token_type_id"], **config[KEPT]}


def _of(library: Any) -> Tokenization:
    names = _names(library)
    settings = {
        "truncation_side": library.truncation_side,
        "padding_side": library.padding_side,
        "pad_token": library.pad_token,
        "pad_id": library.pad_token_id or 0,
        "pad_type_id": library.pad_token_type_id,
        "split_special_tokens": bool(getattr(library, "split_special_tokens", False)),
    }
    found = Tokenization(_serialised(library), settings, names, library, library.eos_token)
    _check_settled(found)
    return found if _faithful(found, library) else replace(found, source="")


def _names(library: Any) -> tuple[str, ...]:
    """The inputs that it makes.

    Raises:
        SourceError: its settings name no tokens among them, or what it does not make.
    """
    names = tuple(library.model_input_names)
    try:
        made = library(SAMPLES[0])
    except Exception as error:  # what is missing in a vocabulary makes the library raise can be anything
        raise SourceError(f"the tokenizer in {library.name_or_path} fails on ordinary texts: {told(error)}") from error
    where = f"the tokenizer in {library.name_or_path}: model_input_names in {TOKENIZER_CONFIG}"
    if strange := next((name for name in names if name not in made), None):
        raise SourceError(f"{where} has {strange!r:.60}, which it does not make: mend it")
    if "input_ids" not in names:
        raise SourceError(f"{where} is {list(names)}, without input_ids: mend it")
    return names


def _check_settled(found: Tokenization) -> None:
    """Refuse a tokenizer that draws: what a model is trained on, scored by and deployed with would differ from call to call.

    Raises:
        SourceError: it does.
    """
    share = json.loads(found.source)["model"].get("dropout") if found.source else None
    sampled = (getattr(found.library, "sp_model_kwargs", None) or {}).get("enable_sampling")
    if share or sampled:
        what = f"the model's `dropout` in {TOKENIZER} is {share}" if share else f"`enable_sampling` in {TOKENIZER_CONFIG} is true"
        raise SourceError(
            f"the tokenizer in {found.library.name_or_path} splits words at random: {what}; take it out, as deployed models do"
        )


def _serialised(library: Any) -> str:
    from tokenizers import Tokenizer

    backend = getattr(library, "backend_tokenizer", None)
    if backend is None:
        return ""
    alone = Tokenizer.from_str(backend.to_str())
    alone.no_truncation()
    alone.no_padding()
    return str(alone.to_str(pretty=True))


def _faithful(found: Tokenization, library: Any) -> bool:
    """Whether what is kept of a tokenizer makes the inputs that it makes itself: its class may do more than its file says."""
    if not found.source or set(found.names) - set(TEXT_INPUTS):
        return False
    try:
        made = library(list(SAMPLES), truncation=True, max_length=SAMPLED_LENGTH)
    except Exception as error:  # what is missing in a vocabulary makes the library raise can be anything
        raise SourceError(f"the tokenizer in {library.name_or_path} fails on ordinary texts: {told(error)}") from error
    rows = list(found.encoded(SAMPLES, SAMPLED_LENGTH))
    return all(row[name].tolist() == list(made[name][number]) for number, row in enumerate(rows) for name in found.names)


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of transformers in a folder.

    Raises:
        SourceError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    from compressor.model.pretrained import quiet

    single = gguf_in(folder)
    if not (single or tokenizer_files(folder) or any(folder.glob("*.model"))):  # what SentencePiece writes
        raise SourceError(f"{folder} has no tokenizer ({' or '.join(TOKENIZER_FILES[:2])})")
    _check_numbers(folder)
    try:
        with quiet():
            inside = {"gguf_file": single.name} if single else {}
            found = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **inside)
    except Exception as error:  # what a malformed folder makes the library raise can be anything
        raise SourceError(f"the tokenizer in {folder} cannot be read: {told(error)}") from error
    if single:
        return found
    if hasattr(found, "backend_tokenizer") and not any(path for pattern in VOCABULARIES for path in folder.glob(pattern)):
        raise SourceError(f"the tokenizer in {folder} has settings and no vocabulary ({', '.join(VOCABULARIES)})")
    return found


def _check_numbers(folder: Path) -> None:
    """Refuse numbers of tokens for which no library finds the memory.

    Raises:
        SourceError: there are some, or a file that has them is no JSON.
    """
    for name in (TOKENIZER, "vocab.json", "added_tokens.json"):
        values = read_json(folder / name) if (folder / name).is_file() else {}
        model, added = (values.get("model"), values.get("added_tokens")) if name == TOKENIZER else (None, None)
        words = model.get("vocab") if isinstance(model, Mapping) else values
        numbers = list(words.values()) if isinstance(words, Mapping) else []
        numbers += [each.get("id") for each in added if isinstance(each, Mapping)] if isinstance(added, list) else []
        most = max((each for each in numbers if isinstance(each, int)), default=0)
        if most > MOST_TOKENS:
            raise SourceError(f"{folder / name} has a token of number {most}; none of more than {MOST_TOKENS} is read")


# ------------------------------------------------------------------ keeping


def agree_on_padding(tokenizer: Any, module: Any, source: Path) -> None:
    """The end of text pads where no padding token is named; a head that reads the last token is told what texts are padded with.

    Raises:
        SourceError: there is neither.
    """
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise SourceError(f"the tokenizer in {source} has neither a padding token nor an end of text: name one as pad_token")
        tokenizer.pad_token = tokenizer.eos_token
    if hasattr(module, "score"):
        module.config.pad_token_id = tokenizer.pad_token_id


def side_files(tokenizer: Any, module: Any) -> dict[str, bytes]:
    """What lies beside a model of its tokenizer: the one that was read, whatever its files said, complete without the model's configuration."""
    accepted = inspect.signature(module.forward).parameters
    tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name in accepted]
    found = _of(tokenizer)
    if found.source:
        return {TOKENIZER: found.source.encode(), TOKENIZER_CONFIG: _json(_config(found))}
    with tempfile.TemporaryDirectory(prefix="compressor-tokenizer-") as folder:
        tokenizer.save_pretrained(folder)
        made = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
    config = {**json.loads(made[TOKENIZER_CONFIG]), "model_input_names": tokenizer.model_input_names}
    return {**made, TOKENIZER_CONFIG: _json(config)}


def shipped(folder: Path, found: Tokenization, inputs: Sequence[str], max_length: int) -> dict[str, str]:
    """Files of an export, by which loaders of the ecosystem make these inputs of a text as the run did, cut at its length where asked to cut."""
    kept = found.library is None
    config = read_json(folder / TOKENIZER_CONFIG) if kept else _config(found)
    names = [name for name in found.names if name in inputs]
    content = _json({**config, "model_input_names": names, "model_max_length": max_length})
    return {TOKENIZER: found.source, TOKENIZER_CONFIG: content.decode()}


def _config(found: Tokenization) -> dict[str, Any]:
    """Settings by which any version of the library takes all from `tokenizer.json`, whatever class the tokenizer had."""
    tokenizer = found.library
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": list(found.names),
        "model_max_length": tokenizer.model_max_length,
        **{name: found.settings[name] for name in SIDES},
        "pad_token_type_id": found.settings["pad_type_id"],
        "clean_up_tokenization_spaces": bool(tokenizer.clean_up_tokenization_spaces),
        **{name: _plain(token) for name, token in sorted(tokenizer.special_tokens_map.items())},
        KEPT: {"pad_id": found.settings["pad_id"]},
    }


def check_kept(files: Mapping[str, bytes], tokenizer: Any, source: Path) -> None:
    """Read a tokenizer back from what is kept of it.

    Raises:
        SourceError: that cannot be read, or makes other ids: it needs files that it does not save.
    """
    if TOKENIZER in files:
        return  # that was held against the tokenizer as it was made
    with tempfile.TemporaryDirectory(prefix="compressor-tokenizer-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        try:
            again = read_tokenizer(Path(folder))(list(SAMPLES))["input_ids"]
        except Exception as error:  # what a missing file makes the library raise can be anything
            again = error
    if again != tokenizer(list(SAMPLES))["input_ids"]:
        why = f": {again}" if isinstance(again, Exception) else ""
        raise SourceError(
            f"the tokenizer in {source} ({type(tokenizer).__name__}) needs files that it does not save ({', '.join(sorted(files))} are "
            f"all that it saves){why}: save a fast one beside the model, which writes {TOKENIZER}"
        )


def _plain(token: Any) -> Any:
    return [str(each) for each in token] if isinstance(token, list | tuple) else str(token)


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
