"""An experiment's records on disk as TFDS data sets, and its tokenizer."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rlhf_jax.data import counting, download, folder, human, source_files
from rlhf_jax.data.builder import RecordSource, read_dataset, write_dataset
from rlhf_jax.data.counting import Splits
from rlhf_jax.data.records import (
    Demonstration,
    Prompt,
    Ranking,
    Text,
    deduplicate_by_prefix,
)
from rlhf_jax.data.tokenizer import (
    Tokenizer,
    find_tokenizer,
    load_tokenizer,
    train_sentencepiece,
)
from rlhf_jax.durable.files import write_atomically
from rlhf_jax.durable.fingerprint import check_fingerprint
from rlhf_jax.durable.lock import lock
from rlhf_jax.experiment import FolderData, HumanData, WorldData
from rlhf_jax.randomness import shuffle_seed
from rlhf_jax.strict_json import read_json
from rlhf_jax.worlds.instruction import InstructionWorld

SPECIALS = ("pad", "bos", "eos")


@dataclasses.dataclass(frozen=True)
class Corpora:
    """The data sets of a run: text, demonstrations, prompts, rankings, each with splits."""

    directory: Path

    def read(self, name: str, split: str) -> RecordSource:
        return read_dataset(self.directory, name, split)

    def has(self, name: str) -> bool:
        return (self.directory / name).is_dir()

    def write(self, name: str, splits: dict[str, Sequence]) -> None:
        write_dataset(self.directory, name, splits)

    @property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(find_tokenizer(self.directory))

    @property
    def counts(self) -> dict:
        return read_json(self.directory / "counts.json")

    def keep(self, name: str, counts: dict) -> None:
        """Adds counts, or counts of a stage to those of other stages, to counts.json."""
        there = self.counts
        now = there | {name: there.get(name, {}) | counts}
        if now != there:
            write_atomically(self.directory / "counts.json", json.dumps(now, indent=1).encode())

    def sources(self, name: str, split: str) -> dict[str, int]:
        """Records of a split by source, in the order in which they stand."""
        known = self.counts.get("sources", {}).get(f"{name}.{split}")
        return known or {"all": len(self.read(name, split))}


def prepare(
    data: WorldData | HumanData | FolderData, directory: Path, vocab_size: int, seed: int
) -> Corpora:
    """Writes the data sets and trains or copies the tokenizer; what is there already stays.

    counts.json, written last, says how many records each split holds and what was left out, cut or
    stands twice; the same goes to the screen.
    Raises UserError where the directory was made with another config, or from other files.
    """
    corpora = Corpora(directory)
    done = (directory / "counts.json").is_file()
    identity = {"data": data, "vocab_size": vocab_size, "seed": seed}
    check_fingerprint(directory, identity, insist=None if done else True)
    files = _source_files(data, directory if done else None)
    if done:
        return corpora
    with lock(directory):
        if isinstance(data, WorldData):
            splits, counts = world_splits(data, seed)
        elif isinstance(data, HumanData):
            splits, counts = human_splits(data, shuffle_seed(seed, "data/heldout"))
        else:
            splits, counts = folder.read_folder(data.path, data.demonstrations, data.rankings)
            named = {f"{word}_token": getattr(data, f"{word}_token") for word in SPECIALS}
            folder.copy_tokenizer(data.path, directory, vocab_size, **named)
        counts["repeated"] = counting.repeats(splits)
        for name, parts in splits.items():
            corpora.write(name, parts)
            counts[name] = {split: len(records) for split, records in parts.items()}
        if not isinstance(data, FolderData):
            texts = [record.text for record in splits["text"]["train"]]
            texts += [d.prompt + d.response for d in splits["demonstrations"]["train"]]
            order = shuffle_seed(seed, "data/tokenizer")
            train_sentencepiece(texts, vocab_size, directory / "tokenizer.model", order)
        tokenizer = corpora.tokenizer
        if tokenizer.loss:
            counts["changed_by_tokenizer"] = counting.changed_by(tokenizer, splits)
        if files:
            source_files.write_sources(directory, *files)
        content = json.dumps(counts, indent=1).encode()
        write_atomically(directory / "counts.json", content)
    _tell(counts, tokenizer)
    return corpora


def _tell(counts: dict, tokenizer: Tokenizer) -> None:
    for name, numbers in counts.items():
        parts = numbers if isinstance(numbers, dict) else {"": numbers}
        told = [f"{part} {n}".strip() for part, n in parts.items() if not isinstance(n, dict)]
        if told:
            print(f"data: {name}:", ", ".join(told))
    if tokenizer.loss:
        text, back = map(ascii, tokenizer.loss)
        print(f"data: the tokenizer changes text: {text} comes back as {back}", flush=True)


def _source_files(
    data: WorldData | HumanData | FolderData, directory: Path | None
) -> tuple[Path, dict[str, str]] | None:
    """The folder that the records come from and its files' digests; None where there is none.

    directory: made from these files, so that they must be the same; None: not made yet. Where the
    folder is no longer named, the run goes on with the records that it holds.
    """
    if isinstance(data, WorldData):
        return None
    if directory and not (data.path or os.environ.get("RLHF_JAX_DATA")):
        print(f"data: no folder is named; {directory} holds the records", flush=True)
        return None
    if isinstance(data, HumanData):
        path, names = human.find_human_data(data.path), list(download.FILES)
    else:
        path = folder.find_folder(data.path)
        names = folder.file_names(path)
    files = source_files.digests(path, names)
    if directory:
        source_files.check_sources(directory, path, files)
    return path, files


def world_splits(data: WorldData, seed: int) -> tuple[Splits, dict]:
    """The instruction world's records, and how many demonstrations to train on are careless; its
    rankings come from the feedback stage."""
    world = InstructionWorld(data.world, seed)
    text = {split: [Text(t) for t in world.corpus(split)] for split in ("train", "valid")}
    prompts = {s: [Prompt(p) for p in world.prompts(s)] for s in ("feedback", "ppo", "test")}
    demonstrations = {
        "train": world.demonstrations("sft", data.careless),
        "valid": world.demonstrations("valid"),
    }
    hurried = world.hurried("sft", data.careless)
    counts = {"careless": {"demonstrations": sum(hurried), "of": len(hurried)}}
    return {"text": text, "demonstrations": demonstrations, "prompts": prompts}, counts


def human_splits(data: HumanData, seed: int) -> tuple[Splits, dict]:
    """Records of the human feedback files, held-out prompts apart in every data set.

    Records come source by source; counts["sources"] says how many each source has in a split,
    counts["heldout"] the same of the held-out rankings.
    Demonstrations are the replies that stand alone at the top of a ranking.
    """
    files = human.find_human_data(data.path)
    hh, hh_counts = human.read_hh(files / "hh-rlhf/harmless-base/test.jsonl.gz")
    trees, _, tree_counts = human.read_openassistant(files / "oasst-en100/en_100_tree.jsonl")
    pandalm, pandalm_counts = human.read_pandalm(files / "pandalm/testset-v1.json")
    counts = {"hh": hh_counts, "openassistant": tree_counts, "pandalm": pandalm_counts}
    train, valid, counts["heldout"] = [], [], {}
    for source, found in (("hh", hh), ("openassistant", trees), ("pandalm", pandalm)):
        found, unsure = counting.settle(found)
        counts[source] |= unsure
        kept, held = human.split_by_prompt(found, data.heldout, seed, data.dedupe_characters)
        short = [recent_turns(ranking, data.prompt_characters) for ranking in kept + held]
        cut = zip(kept + held, short, strict=True)
        counts[source]["older_turns_cut"] = sum(a.prompt != b.prompt for a, b in cut)
        counts["heldout"][source] = len(held)
        train += [(source, ranking) for ranking in short[: len(kept)]]
        valid += [(source, ranking) for ranking in short[len(kept) :]]
    test = list(dict.fromkeys(ranking.prompt for _, ranking in valid))
    both = set(test)  # two dialogues may end, or two files begin, alike
    counts["train_prompts_held_out"] = sum(ranking.prompt in both for _, ranking in train)
    train = [(source, ranking) for source, ranking in train if ranking.prompt not in both]
    prompts, counts["prompts_with_a_repeated_beginning"] = deduplicate_by_prefix(
        [ranking.prompt for _, ranking in train], data.dedupe_characters
    )
    rankings, demonstrations, counts["sources"] = {}, {}, {}
    for split, side in (("train", train), ("valid", valid)):
        best = [(source, best_reply(ranking)) for source, ranking in side if not no_best(ranking)]
        for source, ranking in side:
            if reason := no_best(ranking):
                key = f"no_demonstration_{reason}_best"
                counts[source][key] = counts[source].get(key, 0) + 1
        rankings[split] = [ranking for _, ranking in side]
        demonstrations[split] = [demonstration for _, demonstration in best]
        for name, pairs in (("rankings", side), ("demonstrations", best)):
            counts["sources"][f"{name}.{split}"] = dict(Counter(source for source, _ in pairs))
    wikitext = human.read_text(files / "wikitext-2/valid.txt")
    shakespeare = human.read_text(files / "tinyshakespeare/input.txt")
    articles = human.read_text(files / "wikitext-2/test.txt")[: data.heldout_articles]
    splits = {
        "text": {
            "train": [Text(t) for t in wikitext + shakespeare],
            "valid": [Text(t) for t in articles],
        },
        "demonstrations": demonstrations,
        "rankings": rankings,
        "prompts": {"ppo": [Prompt(p) for p in prompts], "test": [Prompt(p) for p in test]},
    }
    return splits, counts


def recent_turns(ranking: Ranking, characters: int) -> Ranking:
    """The ranking without the oldest turns, so that the prompt holds at most `characters`; the
    last turn stays whole however long it is."""
    prompt = ranking.prompt
    while len(prompt) > characters and prompt.find(human.HUMAN, 1) > 0:
        prompt = prompt[prompt.find(human.HUMAN, 1) :]
    return dataclasses.replace(ranking, prompt=prompt)


def no_best(ranking: Ranking) -> str | None:
    """Why no reply is a demonstration: "tied" (several stand at the top; the same text twice is
    one) or "empty" (the best says nothing); None where one is."""
    top = {r for r, rank in zip(ranking.responses, ranking.ranks, strict=True) if rank == 0}
    if len(top) > 1:
        return "tied"
    return None if top.pop().strip() else "empty"


def best_reply(ranking: Ranking) -> Demonstration:
    """The reply of the best rank."""
    return Demonstration(ranking.prompt, ranking.responses[ranking.ranks.index(0)])
