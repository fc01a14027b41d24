"""A source's records on disk as TFDS data sets, and their tokenizer."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence

from etils.epath import Path

from rlhf_jax.data import about, counting, rendering, source_files
from rlhf_jax.data.builder import RecordSource, read_dataset, write_dataset
from rlhf_jax.data.messages import plain
from rlhf_jax.data.rendering import PLAIN, ChatConfig
from rlhf_jax.data.tokenizer import NAMES, Tokenizer, find_tokenizer, load_tokenizer
from rlhf_jax.data.tokenizer_training import train_sentencepiece
from rlhf_jax.durable import taken
from rlhf_jax.durable.files import write_atomically
from rlhf_jax.durable.fingerprint import check_fingerprint
from rlhf_jax.durable.lock import lock
from rlhf_jax.errors import UserError, inside
from rlhf_jax.parallel import processes
from rlhf_jax.published.folder import PublishedModel, tokenizer_digest
from rlhf_jax.published.model import tokenizer_of
from rlhf_jax.randomness import shuffle_seed
from rlhf_jax.sources.source import Source
from rlhf_jax.strict_json import read_json

# Of counts.json, in words.
TOLD = {
    "held_out_too": "left out of training, as they are held out as well",
    "prompt_held_out_too": "kept in training, though their prompt is held out as well",
    "repeated": "the same as an earlier record",
    rendering.SPELLED: "spell a special token in a prompt, which is read as that token",
    rendering.JOINED: "have other tokens if prompt and response are joined first",
    rendering.CHANGED: "have a response that the chat template changes",
    rendering.HUMAN_IN: 'have turns "Human:" in one message of the user (chat.texts is not human)',
    rendering.REFUSED: "left out, as they cannot be rendered",
}
CHANGED_BY = "changed_by_tokenizer"  # of counts.json: records with a text that it changes
COUNTS = "counts.json"  # in data/, written last


def is_made(directory: Path) -> bool:
    """Whether a run's data/ is complete."""
    return (directory / COUNTS).is_file()


@dataclasses.dataclass(frozen=True)
class Corpora:
    """The data sets of a run: text, demonstrations, prompts, rankings, each with splits.

    directory  holds them and their counts; the counts alone, where data sets and tokenizer are
               those of another run (rlhf_jax/durable/taken.py)
    """

    directory: Path
    source: Source

    def where(self, kind: str, split: str) -> str:
        """How messages name a split."""
        return self.source.where(kind, split)

    def has(self, name: str, split: str) -> bool:
        """Whether the source has records of a split."""
        return split in self.counts.get(name, {})

    def read(self, name: str, split: str) -> RecordSource:
        return read_dataset(taken.followed(self.directory), name, split)

    def write(self, name: str, splits: dict[str, Sequence]) -> None:
        write_dataset(self.directory, name, splits)

    @property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(find_tokenizer(taken.followed(self.directory)))

    @property
    def counts(self) -> dict:
        return read_json(self.directory / COUNTS)

    def keep(self, name: str, counts: dict) -> None:
        """Adds counts to counts.json, under a name; other counts of this name are kept."""
        there = self.counts
        now = there | {name: there.get(name, {}) | counts}
        if now != there:
            write_atomically(self.directory / COUNTS, json.dumps(now, indent=1).encode())

    def sources(self, name: str, split: str) -> dict[str, int]:
        """{source: how many records of a split it has}, in the records' order."""
        known = self.counts.get("sources", {}).get(f"{name}.{split}")
        return known or {"all": len(self.read(name, split))}


def identity(
    source: Source,
    vocab_size: int,
    seed: int,
    chat: ChatConfig = PLAIN,
    published: PublishedModel | None = None,
) -> dict:
    """The config that determines the data."""
    found = {"data": source, "vocab_size": vocab_size, "seed": seed}
    found |= {} if chat == PLAIN else {"chat": chat}
    return found | ({} if published is None else {"tokenizer": tokenizer_digest(published)})


def check_config(
    source: Source,
    directory: Path,
    vocab_size: int,
    seed: int,
    chat: ChatConfig = PLAIN,
    published: PublishedModel | None = None,
) -> None:
    """Raises UserError where finished data of another config are in the directory."""
    if is_made(directory):
        check_fingerprint(directory, identity(source, vocab_size, seed, chat, published))


def prepare(
    source: Source,
    directory: Path,
    vocab_size: int,
    seed: int,
    chat: ChatConfig = PLAIN,
    published: PublishedModel | None = None,
) -> Corpora:
    """Writes the data sets and trains or copies the tokenizer; a finished directory is kept.

    chat: the template that renders records, which the tokenizer's file then has too. published: the
    model whose tokenizer is used; None: the source's, or one that is trained.

    counts.json, written last, holds the number of records of each split, and of records that were
    left out, cut or repeated. The counts are printed too.
    Raises UserError where the directory was made with another config, or from other files.
    """
    corpora = Corpora(directory, source)
    done = is_made(directory)
    config = identity(source, vocab_size, seed, chat, published)
    check_fingerprint(directory, config, insist=None if done else True)
    # The source files may be on the disk of process 0 only.
    files = _files(source, directory, done) if processes.is_first() else None
    if done:
        return corpora
    with lock(directory):
        (directory / taken.NAME).unlink(missing_ok=True)  # a kill left it without the counts
        splits, counts = source.records(seed)
        if chat.template is None:
            rendering.refuse_messages(splits)
        if published is None:
            trained = not source.copy_tokenizer(directory, vocab_size)
        else:
            trained, files_of = False, published.tokenizer()
            name = next(name for name in NAMES if name in files_of)
            tokenizer_of(published).save(directory / name)
        counts["repeated"] = counting.repeats(splits)
        if trained:
            order = shuffle_seed(seed, "data/tokenizer")
            with inside("model"):
                texts = training_texts(splits)
                made = train_sentencepiece(texts, vocab_size, directory / "tokenizer.model", order)
            if made.vocab_size < vocab_size:
                print(f"data: the tokenizer has {made.vocab_size} tokens, as the training records "
                      f"allow no more (model.vocab_size = {vocab_size})", flush=True)  # fmt: skip
        splits = _rendered(corpora, splits, chat, counts)
        for name, parts in splits.items():
            corpora.write(name, parts)
            counts[name] = {split: len(records) for split, records in parts.items()}
        tokenizer = corpora.tokenizer
        if tokenizer.loss:
            counts[CHANGED_BY] = counting.changed_by(tokenizer, splits)
        if files:
            source_files.write_sources(directory, *files)
        content = json.dumps(counts, indent=1).encode()
        write_atomically(directory / COUNTS, content)
    _tell(counts, tokenizer)
    return corpora


def _rendered(
    corpora: Corpora, splits: counting.Splits, chat: ChatConfig, counts: dict
) -> counting.Splits:
    """The splits as texts; with a chat template the tokenizer's file gets it."""
    if chat.template is None:
        return splits
    file = find_tokenizer(corpora.directory)
    source = chat.source
    try:
        tokenizer = load_tokenizer(file).with_chat(source)
    except UserError as error:
        raise UserError(f"chat.template = {chat.template!r}: {error}") from None
    tokenizer.save(file)
    splits, changed, refused = rendering.rendered(splits, tokenizer, chat)
    counts |= changed
    for place, left in refused.items():
        if sizes := counts.get("sources", {}).get(place):
            counts["sources"][place] = without(sizes, left)
    return splits


def without(sizes: dict[str, int], left: Sequence[int]) -> dict[str, int]:
    """{source: how many records} without the records at the places `left`. The records are in the
    sources' order."""
    names = [name for name, size in sizes.items() for _ in range(size)]
    lost = Counter(names[place] for place in left)
    return {name: size - lost[name] for name, size in sizes.items()}


def training_texts(splits: counting.Splits) -> list[str]:
    """What a tokenizer is trained on: text and demonstrations; without any, all other records."""
    train = lambda kind: splits.get(kind, {}).get("train", ())
    texts = [record.text for record in train("text")]
    texts += [plain(record.prompt) + record.response for record in train("demonstrations")]
    others = (*train("rankings"), *train("scored"), *splits.get("prompts", {}).get("ppo", ()))
    return texts or [plain(text) for record in others for text in counting.texts_of(record)]


def _files(source: Source, directory: Path, done: bool) -> tuple[Path, dict[str, str]] | None:
    """The folder that records are read from and its files' digests; None if there is no folder.

    done: the directory is finished, so the files must be unchanged. If the folder is no longer
    named, the run uses the records in the directory.
    """
    if done and not source.is_named():
        print(f"data: no folder is named; the records in {directory} are used", flush=True)
        return None
    found = source.files()
    if found is None:
        return None
    path, names = found
    files = source_files.digests(path, names)
    if done:
        source_files.check_sources(directory, path, files)
    return path, files


def _tell(counts: dict, tokenizer: Tokenizer) -> None:
    for line in about.sentences(counts):
        print(f"data: {line}")
    for name, numbers in counts.items():
        if name == about.ORIGIN:
            continue
        parts = numbers if isinstance(numbers, dict) else {"": numbers}
        told = [f"{part} {n}".strip() for part, n in parts.items() if n and not isinstance(n, dict)]
        if told:
            print(f"data: {TOLD.get(name, name)}:", ", ".join(told))
    for sentence in tokenizer.told:
        print(f"data: {sentence}", flush=True)
    if tokenizer.loss:
        text, back = map(ascii, tokenizer.loss)
        some = any(counts.get(CHANGED_BY, {}).values())
        print(f"data: the tokenizer changes some texts: {text} comes back as {back}; "
              f"{'such records are counted above' if some else 'no record has such a text'}",
              flush=True)  # fmt: skip
