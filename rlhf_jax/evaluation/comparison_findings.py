"""Sentences that say which setting of a comparison is better, by the columns that have a better
side."""

from collections.abc import Mapping

from rlhf_jax.evaluation.comparison import Comparison, Difference, Row
from rlhf_jax.evaluation.comparison_table import told

SIGNS = {"higher": 1, "lower": -1}
MANY = "(These intervals are not corrected for the number of comparisons.)"


def findings(comparison: Comparison) -> list[str]:
    """For each model that differs between settings: by which columns its best setting is clearly
    better than others, that is, the interval of the difference does not contain 0; and by which
    columns no setting is."""
    sentences, models = [], {}
    for row in comparison.rows:
        models.setdefault((row.section, row.model), []).append(row)
    for (section, model), rows in models.items():
        if len(rows) > 1:
            sentences += _of_model(comparison, section, model, rows)
    clear = any("clearly better than" in sentence for sentence in sentences)
    return [*sentences, MANY] if clear else sentences


def _of_model(comparison: Comparison, section: str, model: str, rows: list[Row]) -> list[str]:
    sentences, unclear = [], []
    for name, column in comparison.columns(section).items():
        known = [row for row in rows if row.estimate(name).value is not None]
        if column.better is None or len(known) < 2:
            continue
        sign = SIGNS[column.better]
        best = max(known, key=lambda row: sign * row.estimate(name).value.mean)
        found = comparison.differences(section, name)
        above = [(row, _minus(found, best, row)) for row in known if row is not best]
        clear = [
            f"{row.setting} ({of.value.text('+')}, {told(of)})"
            for row, of in above
            if of is not None and of.value.side() != 0
        ]
        if clear:
            words = f"by {name}, {best.setting} is clearly better than {'; '.join(clear)}"
            sentences.append(f"{model}: {words}.")
        else:
            unclear.append(name)
    if unclear:
        sentences.append(f"{model}: no setting is clearly better by {', '.join(unclear)}.")
    return sentences


def _minus(found: Mapping[tuple[str, str], Difference], a: Row, b: Row) -> Difference | None:
    """a - b."""
    if (a.name, b.name) in found:
        return found[a.name, b.name]
    other = found.get((b.name, a.name))
    return other and other._replace(value=other.value.negated())
