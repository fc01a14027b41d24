"""Records of public human feedback, read from its original formats."""

import dataclasses
import os
from collections import Counter
from pathlib import Path

from rlhf_jax.data import about, counting, download, hygiene
from rlhf_jax.data.convert import Reading, read_file
from rlhf_jax.data.formats.item import HUMAN
from rlhf_jax.data.formats.text import read_text
from rlhf_jax.data.hygiene import deduplicate_by_prefix
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Text
from rlhf_jax.errors import UserError, require
from rlhf_jax.fields import NOT_FINGERPRINTED
from rlhf_jax.randomness import shuffle_seed
from rlhf_jax.sources.source import Source

# Of each source, the file in the folder (data/download.py).
FEEDBACK = {
    "hh": "hh-rlhf/harmless-base/test.jsonl.gz",
    "openassistant": "oasst-en100/en_100_tree.jsonl",
    "pandalm": "pandalm/testset-v1.json",
}
# The licences of the files of training text.
TEXTS = {"wikitext-2/valid.txt": "CC BY-SA", "tinyshakespeare/input.txt": "public domain"}


def find_human_data(path: str | os.PathLike | None = None) -> Path:
    """The folder of human feedback: `path`, else the environment variable RLHF_JAX_DATA.

    Raises:
      UserError: neither names a folder that exists.
    """
    named = path if path is not None else os.environ.get("RLHF_JAX_DATA")
    advice = (
        "set RLHF_JAX_DATA (or the config's path) to the folder that holds hh-rlhf, "
        'or fetch it from GitHub: python -c "from rlhf_jax.data.download import '
        "download_human_data; download_human_data('human_data')\""
    )
    if not named:
        raise UserError(f"human feedback: no folder named; {advice}")
    if not Path(named).is_dir():
        raise UserError(f"human feedback: {named} is no folder; {advice}")
    return Path(named)


@dataclasses.dataclass(frozen=True)
class HumanData(Source):
    """Human comparisons and rankings from files in their original formats: Anthropic HH,
    OpenAssistant and PandaLM; text of WikiText-2 and tiny Shakespeare.
    """

    # The folder of the files; None: the folder that RLHF_JAX_DATA names.
    path: str | None = dataclasses.field(default=None, metadata=NOT_FINGERPRINTED)
    heldout: float = 0.1  # fraction of each source's prompts that is held out
    dedupe_characters: int = 100  # of prompts with the same first characters only one is kept
    prompt_characters: int = 400  # older turns of a longer prompt are removed
    # Whether files that are public as test sets may be trained on; HH's and PandaLM's are.
    allow_test: bool = dataclasses.field(default=False, metadata=NOT_FINGERPRINTED)
    heldout_articles: int = 12  # the number of WikiText's test articles that are held out

    def __post_init__(self):
        require(0 < self.heldout < 1, "heldout", self.heldout, "in (0, 1)")
        for field in ("dedupe_characters", "prompt_characters", "heldout_articles"):
            require(getattr(self, field) > 0, field, getattr(self, field), "positive")

    def files(self):
        return find_human_data(self.path), list(download.FILES)

    def is_named(self):
        return bool(self.path or os.environ.get("RLHF_JAX_DATA"))

    def records(self, seed):
        """Held-out prompts are held out in every data set.

        Records are ordered by source. counts["sources"] holds each source's number of records in a
        split, counts["heldout"] its number of held-out rankings.
        Demonstrations are replies that are the only best reply of a ranking.
        """
        order = shuffle_seed(seed, "data/heldout")
        files = find_human_data(self.path)
        counts, read = {}, {}
        for source, name in FEEDBACK.items():
            read[source] = read_file(str(files / name), Reading(template="human"))
            counts[source] = {**read[source].counts, **read[source].left_out}
        train, valid, counts["heldout"] = [], [], {}
        for source, file in read.items():
            found = file.records("rankings")
            found, unsure = counting.settle(found)
            counts[source] |= unsure
            kept, held = hygiene.split_by_prompt(found, self.heldout, order, self.dedupe_characters)
            short = [recent_turns(ranking, self.prompt_characters) for ranking in kept + held]
            cut = zip(kept + held, short, strict=True)
            counts[source]["older_turns_cut"] = sum(a.prompt != b.prompt for a, b in cut)
            counts["heldout"][source] = len(held)
            train += [(source, ranking) for ranking in short[: len(kept)]]
            valid += [(source, ranking) for ranking in short[len(kept) :]]
        test = list(dict.fromkeys(ranking.prompt for _, ranking in valid))
        both = set(test)  # after cutting old turns, or in two files, prompts may be equal
        counts["train_prompts_held_out"] = sum(ranking.prompt in both for _, ranking in train)
        train = [(source, ranking) for source, ranking in train if ranking.prompt not in both]
        prompts, counts["prompts_with_a_repeated_beginning"] = deduplicate_by_prefix(
            [ranking.prompt for _, ranking in train], self.dedupe_characters
        )
        rankings, demonstrations, counts["sources"] = {}, {}, {}
        for split, side in (("train", train), ("valid", valid)):
            best = [
                (source, best_reply(ranking)) for source, ranking in side if not no_best(ranking)
            ]
            for source, ranking in side:
                if reason := no_best(ranking):
                    key = f"no_demonstration_{reason}_best"
                    counts[source][key] = counts[source].get(key, 0) + 1
            rankings[split] = [ranking for _, ranking in side]
            demonstrations[split] = [demonstration for _, demonstration in best]
            for name, pairs in (("rankings", side), ("demonstrations", best)):
                counts["sources"][f"{name}.{split}"] = dict(Counter(source for source, _ in pairs))
        texts = [text for name in TEXTS for text in read_text(files / name)]
        articles = read_text(files / "wikitext-2/test.txt")[: self.heldout_articles]
        splits = {
            "text": {
                "train": [Text(t) for t in texts],
                "valid": [Text(t) for t in articles],
            },
            "demonstrations": demonstrations,
            "rankings": rankings,
            "prompts": {"ppo": [Prompt(p) for p in prompts], "test": [Prompt(p) for p in test]},
        }
        known = [(FEEDBACK[source], file.licence, file.test) for source, file in read.items()]
        known += [(name, licence, False) for name, licence in TEXTS.items()]
        sources = [about.source(*each) for each in known]
        return splits, counts | about.origin(sources, self.allow_test, "data.allow_test")


def recent_turns(ranking: Ranking, characters: int) -> Ranking:
    """The ranking without its oldest turns, so that the prompt has at most `characters`. The last
    turn is kept, however long it is."""
    prompt = ranking.prompt
    while len(prompt) > characters and prompt.find(HUMAN, 1) > 0:
        prompt = prompt[prompt.find(HUMAN, 1) :]
    return dataclasses.replace(ranking, prompt=prompt)


def no_best(ranking: Ranking) -> str | None:
    """Why no reply is a demonstration: "tied" (several different best replies) or "empty" (the best
    reply is empty); None: the best reply is one."""
    top = {r for r, rank in zip(ranking.responses, ranking.ranks, strict=True) if rank == 0}
    if len(top) > 1:
        return "tied"
    return None if top.pop().strip() else "empty"


def best_reply(ranking: Ranking) -> Demonstration:
    """The reply with the best rank, as a demonstration."""
    return Demonstration(ranking.prompt, ranking.responses[ranking.ranks.index(0)])
