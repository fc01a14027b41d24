"""WikiText-2: the loss of a policy on plain text. Its rise by alignment is the alignment tax."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from rlhf_jax.data.formats.text import read_text
from rlhf_jax.errors import RecordError
from rlhf_jax.evaluation.benchmarks.benchmark import Benchmark, Beside, Item, Row
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.statistics import Interval, mean_interval

FILE = "wikitext-2/test.txt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wikitext(Benchmark):
    """Perplexity on the articles of WikiText-2's test file, as they stand.

    Bits per byte, sum(-log2 p) / bytes, can be compared between tokenizers. The perplexity is
    exp(sum(-log p) / words), with words between white space. Each token is predicted once, in
    windows of the model's context that begin anew.
    """

    called = "wikitext"
    title = "WikiText-2 perplexity"
    licence = "CC BY-SA (text of Wikipedia)"
    source = "Merity et al. 2016 (arXiv 1609.07843)"
    files = (FILE,)

    @property
    def at_once(self):
        return 4  # of thousands of tokens each

    def items(self):
        (path,) = self.paths()
        texts = [text for text in read_text(path) if text.strip()]
        if not texts:
            raise RecordError(f"{path}: expected text, got none")
        return [Item(f"{i} {_title(text)}", {"text": text}, text) for i, text in enumerate(texts)]

    def answered(self, items: Sequence[Item], model, beside: Beside) -> list[Row]:
        texts = [item.fields["text"] for item in items]
        rows = []
        for item, text, found in zip(items, texts, model.documents(texts), strict=True):
            size = len(text.encode("utf-8"))
            rows.append({
                "id": item.id,
                "prompt": _title(text),
                "nats": -found.log_prob,
                "tokens": found.tokens,
                "bytes": size,
                "words": len(text.split()),
                "score": found.log_prob / (size * math.log(2)),
            })  # fmt: skip
        return rows

    def columns(self):
        return {
            "wikitext_bits": Column(
                "bits per byte", "-log2 p of the text, by its bytes", better="lower",
                range=(0, None),
            ),
            "wikitext_perplexity": Column(
                "word perplexity", "exp(-log p) of the text, by its words", digits=1,
                better="lower", range=(1, None),
            ),
            "wikitext_loss": Column(
                "loss", "nats per token", better="lower", range=(0, None), shown=False
            ),
        }  # fmt: skip

    def means(self):
        return {}

    def summary(self, rows, seed):
        of = lambda weights: mean_interval(rows["nats"], rows[weights])
        bits = Interval(*(bound / math.log(2) for bound in of("bytes")))
        perplexity = Interval(*(_exp(bound) for bound in of("words")))
        return {"wikitext_bits": bits, "wikitext_perplexity": perplexity,
                "wikitext_loss": of("tokens")}  # fmt: skip

    def parts(self, rows):
        bits = rows["nats"] / math.log(2)
        return {"wikitext_bits": (bits, rows["bytes"]),
                "wikitext_loss": (rows["nats"], rows["tokens"])}  # fmt: skip


def _exp(value: float) -> float:
    return float(np.exp(min(value, 700.0))) if math.isfinite(value) else max(value, 0.0)


def _title(text: str) -> str:
    """The first line that is not empty, without the marks of a heading."""
    return text.strip().splitlines()[0].strip(" =")[:60]
