"""IFEval: whether a response follows instructions that a program can check.

Each checker is a function (response, **arguments) -> bool; the arguments have the names of the data
set's `kwargs`. `strict` and `loose` are the data set's two ways to apply them.

Source: Zhou et al. 2023 (arXiv 2311.07911) and google-research/instruction_following_eval. Its
tools that need downloads have stand-ins here: sentences.py (NLTK's punkt), `_tokens` (NLTK's word
tokenizer) and language.py (langdetect).
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_jax.errors import RecordError
from rlhf_jax.evaluation.graders import formats
from rlhf_jax.evaluation.graders.language import language_of
from rlhf_jax.evaluation.graders.sentences import sentences

Checker = Callable[..., bool]


def enough(count: int, relation: str, threshold: int) -> bool:
    """count >= threshold for "at least", count < threshold for "less than"."""
    if relation not in ("at least", "less than"):
        raise RecordError(f"relation: expected 'at least' or 'less than', got {relation!r:.40}")
    return count >= threshold if relation == "at least" else count < threshold


def keywords_exist(response: str, keywords: Sequence[str]) -> bool:
    """Each keyword is somewhere in the response, in any case, also inside of a word."""
    return all(word.lower() in response.lower() for word in keywords)


def keyword_frequency(response: str, keyword: str, frequency: int, relation: str) -> bool:
    """How often the keyword is in the response, in any case, also inside of a word."""
    return enough(response.lower().count(keyword.strip().lower()), relation, frequency)


def no_forbidden_words(response: str, forbidden_words: Sequence[str]) -> bool:
    """None of these words is in the response as a whole word, in any case."""
    whole = (rf"\b{re.escape(word)}\b" for word in forbidden_words)
    return not any(re.search(word, response, re.IGNORECASE) for word in whole)


def letter_frequency(response: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    """How often the letter (or another character) is in the response, in any case."""
    return enough(response.lower().count(letter.strip().lower()), let_relation, let_frequency)


def response_language(response: str, language: str) -> bool:
    """The response is in this language (ISO 639-1), or in none that can be told."""
    return language_of(response) in (language, None)


def number_of_sentences(response: str, num_sentences: int, relation: str) -> bool:
    return enough(len(sentences(response)), relation, num_sentences)


def number_of_words(response: str, num_words: int, relation: str) -> bool:
    """A word is a run of letters, digits and underscores."""
    return enough(len(re.findall(r"\w+", response)), relation, num_words)


def capital_word_frequency(response: str, capital_frequency: int, capital_relation: str) -> bool:
    """The number of words that have letters, all of them capitals."""
    count = sum(token.isupper() for token in _tokens(response))
    return enough(count, capital_relation, capital_frequency)


def english_capital(response: str) -> bool:
    """English, and no small letter."""
    return response.isupper() and language_of(response) in ("en", None)


def english_lowercase(response: str) -> bool:
    """English, and no capital letter."""
    return response.islower() and language_of(response) in ("en", None)


def no_comma(response: str) -> bool:
    return "," not in response


def _tokens(text: str) -> list[str]:
    """Words as the Penn Treebank has them: punctuation stands alone, hyphens and inner full stops
    join, and a contraction is two words (I'M: I, 'M)."""
    found = []
    for part in re.findall(r"[^\s()\[\]{}<>!?;\"“”«»*`@#$%&|]+", text):
        for piece in re.split(r"[,:](?!\d)|--|\.{2,}|…", part):
            word = piece.rstrip(".,:") if not re.search(r"\w\.\w", piece) else piece
            found += re.split(r"(?<=\w)(?=n['’]t$|N['’]T$|['’](?:s|S|m|M|d|D|ll|LL|re|RE|ve|VE)$)",
                              word)  # fmt: skip
    return [word for word in found if word]


CHECKERS: dict[str, Checker] = {
    "keywords:existence": keywords_exist,
    "keywords:frequency": keyword_frequency,
    "keywords:forbidden_words": no_forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_of_sentences,
    "length_constraints:number_paragraphs": formats.number_of_paragraphs,
    "length_constraints:number_words": number_of_words,
    "length_constraints:nth_paragraph_first_word": formats.first_word_of_paragraph,
    "detectable_content:number_placeholders": formats.number_of_placeholders,
    "detectable_content:postscript": formats.postscript,
    "detectable_format:number_bullet_lists": formats.number_of_bullets,
    "detectable_format:constrained_response": formats.one_of_three_answers,
    "detectable_format:number_highlighted_sections": formats.number_of_highlights,
    "detectable_format:multiple_sections": formats.number_of_sections,
    "detectable_format:json_format": formats.is_json,
    "detectable_format:title": formats.has_title,
    "combination:two_responses": formats.two_responses,
    "combination:repeat_prompt": formats.repeats_prompt,
    "startend:end_checker": formats.ends_with,
    "startend:quotation": formats.is_quoted,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "punctuation:no_comma": no_comma,
}


def checked(instruction: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without those that are None.

    Raises RecordError where no checker has this name, or where it takes other arguments.
    """
    if instruction not in CHECKERS:
        raise RecordError(f"instruction_id_list: no checker is named {instruction!r:.60}")
    given = {name: value for name, value in arguments.items() if value is not None}
    takes = list(inspect.signature(CHECKERS[instruction]).parameters)[1:]
    if set(given) != set(takes):
        told = f"expected {', '.join(takes) or 'none'}, got {', '.join(given) or 'none'}"
        raise RecordError(f"kwargs of {instruction}: {told}")
    return given


def followed(instruction: str, arguments: Mapping[str, Any], response: str) -> bool:
    """Whether the response follows one instruction; an empty response follows none.

    Raises RecordError as `checked` does.
    """
    given = checked(instruction, arguments)
    return bool(response.strip()) and CHECKERS[instruction](response, **given)


def strict(
    instructions: Sequence[str], arguments: Sequence[Mapping[str, Any]], response: str
) -> list[bool]:
    """For each instruction, whether the response follows it as it stands."""
    pairs = zip(instructions, arguments, strict=True)
    return [followed(name, given, response) for name, given in pairs]


def loose(
    instructions: Sequence[str], arguments: Sequence[Mapping[str, Any]], response: str
) -> list[bool]:
    """For each instruction, whether one of eight forms of the response follows it: with or without
    its first line, its last line, and all asterisks. A bound from above: it forgives an opening
    such as "Sure, here it is:" and the marks of bold text."""
    found = [strict(instructions, arguments, form) for form in _forms(response)]
    return [any(ways) for ways in zip(*found, strict=True)]


def _forms(response: str) -> list[str]:
    lines = response.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return [form for text in (response, *cut) for form in (text, text.replace("*", ""))]
