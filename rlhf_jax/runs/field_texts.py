"""What classes and their fields say of themselves: the texts of the help of options."""

import ast
import dataclasses
import functools
import inspect
import re
import textwrap

ENTRY = re.compile(r"(?P<names>\w+(?:, \w+)*)(?:: |  +)(?P<text>\S.*)")


def first_sentence(kind: type) -> str:
    """Of a class's docstring, as far as its first full stop, colon or semicolon."""
    return re.split(r"[.:;](?: |$)", described(kind), maxsplit=1)[0]


def described(kind: type) -> str:
    """The first paragraph of a class's own docstring, in one line."""
    return " ".join(_docstring(kind).split("\n\n")[0].split())


def _docstring(kind: type) -> str:
    text = inspect.cleandoc(vars(kind).get("__doc__") or "")
    written = rf"{kind.__name__}\(.*\)"  # by dataclasses, where the class has none
    return "" if re.fullmatch(written, text, re.DOTALL) else text


@functools.cache
def field_texts(kind: type) -> dict[str, str]:
    """What a class and those above it say of their fields: an entry of the docstring, "name  text"
    or "name: text", or the comment in a field's line or right above it."""
    names, found = {field.name for field in dataclasses.fields(kind)}, {}
    for each in reversed(kind.__mro__[:-1]):
        entry: list[str] = []
        found |= _comments(each)
        for line in _docstring(each).splitlines():
            match = ENTRY.fullmatch(line)
            if match and set(match["names"].split(", ")) <= names:
                entry = match["names"].split(", ")
                found |= dict.fromkeys(entry, match["text"])
            elif not line.strip():
                entry = []
            else:
                found |= {name: f"{found[name]} {line.strip()}" for name in entry}
    return {name: text for name, text in found.items() if name in names}


def _comments(kind: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(kind))
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError):  # of no file, or not alone
        return {}
    lines, found = source.splitlines(), {}
    for node in tree.body[0].body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        above = node.lineno - 1
        while lines[above - 1].strip().startswith("#"):
            above -= 1
        behind = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
        comments = [line.strip(" #") for line in [*lines[above : node.lineno - 1], behind]]
        comments = [text for text in comments if text and not text.startswith(("fmt:", "noqa"))]
        if comments:
            found[node.target.id] = " ".join(comments)
    return found
