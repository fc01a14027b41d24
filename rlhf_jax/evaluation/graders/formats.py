"""IFEval's instructions about the form of a response: functions (response, **arguments) -> bool.

Source: Zhou et al. 2023 (arXiv 2311.07911) and google-research/instruction_following_eval.
"""

import re

from rlhf_jax.errors import UserError
from rlhf_jax.strict_json import parse_json


def number_of_paragraphs(response: str, num_paragraphs: int) -> bool:
    """The number of paragraphs between dividers `***`. An empty one counts only as an error, but
    the text may begin or end with a divider."""
    parts = re.split(r"\s?\*\*\*\s?", response)
    inner = parts[1:-1]
    if not all(part.strip() for part in inner):
        return False
    ends = (parts[0], parts[-1]) if len(parts) > 1 else (parts[0],)
    return len(inner) + sum(bool(end.strip()) for end in ends) == num_paragraphs


def first_word_of_paragraph(
    response: str, first_word: str, num_paragraphs: int, nth_paragraph: int
) -> bool:
    """The number of paragraphs (between two line feeds), and the first word of one of them, in any
    case, up to its first mark of punctuation. The n-th is counted with empty paragraphs."""
    parts = response.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if count != num_paragraphs or not 1 <= nth_paragraph <= count:
        return False
    words = parts[nth_paragraph - 1].split()
    if not words:
        return False
    word = words[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


def number_of_placeholders(response: str, num_placeholders: int) -> bool:
    """At least so many placeholders such as [name]."""
    return len(re.findall(r"\[.*?\]", response)) >= num_placeholders


def postscript(response: str, postscript_marker: str) -> bool:
    """A postscript with this marker: "P.S.", "P.P.S" or other text; blanks may stand inside."""
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    marker = known.get(postscript_marker.strip(), re.escape(postscript_marker.strip().lower()))
    return re.search(marker, response.lower()) is not None


def number_of_bullets(response: str, num_bullets: int) -> bool:
    """Exactly so many lines that begin with `*` (but not `**`) or `-`."""
    stars = re.findall(r"^\s*\*[^\*].*$", response, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", response, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def one_of_three_answers(response: str) -> bool:
    """It contains "My answer is yes.", "My answer is no." or "My answer is maybe."."""
    return any(f"My answer is {word}." in response for word in ("yes", "no", "maybe"))


def number_of_highlights(response: str, num_highlights: int) -> bool:
    """At least so many parts between asterisks (*part*, **part**) that are not empty. As in the
    data set's own code, both forms are counted by themselves."""
    single = [part[1:-1] for part in re.findall(r"\*[^\n*]*\*", response)]
    double = [part[2:-2] for part in re.findall(r"\*\*[^\n*]*\*\*", response)]
    return sum(bool(part.strip()) for part in single + double) >= num_highlights


def number_of_sections(response: str, section_spliter: str, num_sections: int) -> bool:
    """At least so many headings: the word `section_spliter` with a number behind it."""
    heading = re.escape(section_spliter.strip()) + r"\s?\d+"
    return len(re.findall(heading, response)) >= num_sections


def is_json(response: str) -> bool:
    """The whole response is JSON, perhaps between ``` or ```json and ```."""
    text = response.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        parse_json(text.removesuffix("```").strip().encode("utf-8", "replace"))
    except UserError:
        return False
    return True


def has_title(response: str) -> bool:
    """A title such as <<title>>, on one line and not empty."""
    found = re.findall(r"<<[^\n]+>>", response)
    return any(title.lstrip("<").rstrip(">").strip() for title in found)


def two_responses(response: str) -> bool:
    """Two different texts with ****** between them; a divider may also begin or end the whole."""
    parts = response.split("******")
    if not all(part.strip() for part in parts[1:-1]):
        return False
    texts = [part.strip() for part in parts if part.strip()]
    return len(texts) == 2 and texts[0] != texts[1]


def repeats_prompt(response: str, prompt_to_repeat: str) -> bool:
    """It begins with this text, in any case."""
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


def ends_with(response: str, end_phrase: str) -> bool:
    """It ends with this phrase, in any case, perhaps inside of quotation marks."""
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def is_quoted(response: str) -> bool:
    """The whole stands between double quotation marks."""
    text = response.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'
