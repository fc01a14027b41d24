"""Fields of configs as options of the command line, `--ppo.kl.coefficient 0.1`.

The groups of options are the config's own instances: what class a stage, an objective or an
evaluator is, the experiment file says; an option changes a field of it.
"""

import collections
import contextlib
import dataclasses
import difflib
import enum
import io
import keyword
import re
import textwrap
import types
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import tyro

from rlhf_jax.errors import UserError, inside, require
from rlhf_jax.runs.experiment import PRETRAINED, Experiment
from rlhf_jax.runs.field_texts import described, field_texts

HELP = ("-h", "--help")
FILE = "the experiment file"
LISTED = 16  # options at most that an error lists
WORDS = (str, int, float, bool, Path, types.NoneType)  # what a text can stand for
POSITIONAL = {"positional": True}  # metadata of a field that is given as a word without an option


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Of a command that runs stages."""

    # Ends a stage at this step, with a checkpoint. Steps of earlier calls count.
    stop_after_steps: int | None = None
    insist: bool = False  # continues in a directory that was made with another config
    # Another run's directory: a stage that has finished there with the same config is not trained
    # again, unless the command names it. Its model stays there; from.json in this run points to it.
    from_: str | None = None


@dataclasses.dataclass(frozen=True)
class ChainOptions(RunOptions):
    """Of `run`."""

    stages: tuple[str, ...] = ()  # these and those that they build on; none named: all


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """Of a command that reads what stages have ended with."""

    insist: bool = False  # reads a directory that was made with another config


class Part(NamedTuple):
    """An option, or a group of options."""

    name: str
    value: Any
    hint: Any  # what the field may hold
    about: str
    positional: bool = False


def parse(
    roots: Sequence[Any],
    arguments: Sequence[str],
    prog: str,
    about: str = "",
    hidden: Collection[str] = (),
) -> list[Any]:
    """The roots, dataclasses whose fields are the options at the top, changed as arguments say.

    about: what --help begins with. hidden: groups at the top that --help does not list.
    Raises UserError, which names the option, where there is none such, a value is of another type,
    a config refuses it, or a word belongs to no option; or where two options have one name, as a
    stage and an option of the command may.
    """
    names = [part.name for part in _options(_top(roots))]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--{twice[0].replace('_', '-')}: a stage of the experiment and an option "
                        f"of this command ({prog}) have this name: rename the stage")  # fmt: skip
    asks = any(argument in HELP for argument in arguments)
    refuse_unknown(roots, arguments)
    given = {_path(argument).split(".")[0] for argument in arguments}
    given |= {name.removeprefix("no_") for name in given}  # a flag back
    listed = lambda name: name not in hidden if asks else name in given
    parts = [part for part in _options(_top(roots)) if part.positional or listed(part.name)]
    default, said = _mirror("Call", parts), io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = tyro.cli(
                type(default),
                prog=prog,
                description=about,
                default=default,
                args=HELP[1:] if asks else arguments,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as ended:
        if ended.code:
            raise UserError(_one_line(said.getvalue(), arguments)) from None
        raise
    found = dict(zip((part.name for part in parts), vars(parsed).values(), strict=True))
    return [_changed(root, found) for root in roots]


def _one_line(said: str, arguments: Sequence[str]) -> str:
    """What tyro says is wrong, in one line. It draws a box: title, what is wrong, rule, help."""
    lines = [line.strip("│ ") for line in said.splitlines()[1:]]
    rules = [number for number, line in enumerate(lines) if line and set(line) <= set("─-")]
    start, end = (1, rules[1]) if rules[:1] == [0] else (0, rules[0] if rules else None)
    what = " ".join(lines[start:end])
    if match := re.match(r"Unrecognized options: ([^,]+)", what):
        return f"{match[1].strip()!r} belongs to no option: expected --field value"
    option = re.search(r"--[\w.-]*\w", what)
    if option is None:
        return what
    name = option[0]
    places = [n for n, each in enumerate(arguments) if each.split("=")[0] == name]
    given = [word for n in places for word in _words_of(arguments, n)]
    kind = next((line for line in lines if line.startswith(f"{name} ")), "").removeprefix(name)
    expected = kind.strip() or what.rpartition("Expected ")[2].rstrip(".")
    return f"{' '.join([name, *given])}: expected {expected}"


def _words_of(arguments: Sequence[str], place: int) -> list[str]:
    """The words that an option is given."""
    own = arguments[place].split("=", 1)[1:]
    for word in arguments[place + 1 :] if not own else ():
        if word.startswith("--"):
            break
        own.append(word)
    return own


def listed(root: Any) -> str:
    """A few lines for each field of a dataclass: option, text, default."""
    text = lambda part: f"{part.about} (default: {part.value or 'none'})"
    options = {f"  --{part.name.replace('_', '-')}  ": text(part) for part in _fields(root)}
    fill = lambda option, text: textwrap.fill(
        option + text, 78, subsequent_indent=" " * 6, break_on_hyphens=False
    )
    return "\n".join(fill(*each) for each in options.items())


def different(one: Any, other: Any) -> list[str]:
    """The fields in which two configs of a class differ, as the second has them."""
    before = {part.name: part.value for part in _fields(one)}
    found = {p.name: repr(p.value) for p in _fields(other) if p.value != before[p.name]}
    return [f"{name} = {text}" if len(text) <= 40 else f"another {name}"
            for name, text in found.items()]  # fmt: skip


def _parts(value: Any) -> list[Part] | None:
    """The parts of a group; None: the value is no group."""
    if isinstance(value, Experiment):
        stages = [Part(name, stage, type(stage), "") for name, stage in _own(value).items()]
        named = {evaluator.name: evaluator for evaluator in value.evaluators}
        own = [part for part in _fields(value) if part.name not in ("stages", "evaluators")]
        return [*own, *stages, Part("evaluators", named, Mapping, "")]
    if _is_config(value):
        return _fields(value)
    items = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif type(value) in (tuple, list):
        items = enumerate(value)
    found = [Part(str(name), inner, type(inner), "") for name, inner in items]
    return found if found and all(_is_config(part.value) for part in found) else None


def _own(config: Experiment) -> dict[str, Any]:
    """The stages that have options: not that which reads the published model, which has its name
    from a field."""
    return {name: stage for name, stage in config.stages.items() if name != PRETRAINED}


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _fields(value: Any) -> list[Part]:
    kind, found = type(value), []
    try:
        hints = get_type_hints(kind)
    except NameError:  # types that only a type checker imports
        hints = {}
    texts = field_texts(kind)
    for field in dataclasses.fields(value):
        if field.init:
            name, inner = field.name, getattr(value, field.name)
            hint, text = hints.get(name, type(inner)), texts.get(name, "")
            positional = field.metadata.get("positional", False)
            # A trailing _ is of a keyword: from_.
            found.append(Part(name.rstrip("_"), inner, hint, text, positional))
    return found


def _top(roots: Sequence[Any]) -> list[Part]:
    return [part for root in roots for part in _parts(root) or ()]


def _options(parts: Sequence[Part]) -> list[Part]:
    """Those that are options or groups with options."""
    found = []
    for part in parts:
        below = _parts(part.value)
        if _is_worded(part.hint) if below is None else _options(below):
            found.append(part)
    return found


def _is_worded(hint: Any) -> bool:
    """Whether a text can stand for every value that a field may hold."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return True
    if origin in (Union, types.UnionType, tuple, list, collections.abc.Sequence):
        return all(each is ... or _is_worded(each) for each in inner)
    return isinstance(hint, type) and (hint in WORDS or issubclass(hint, enum.Enum))


def _mirror(name: str, parts: Sequence[Part]) -> Any:
    """A dataclass of the parts' values whose types are those of the values, for tyro."""
    fields, values = [], []
    for number, part in enumerate(parts):
        value, hint, about = part.value, part.hint, part.about
        if _parts(value) is not None:
            about = about or described(type(value))
            value = _mirror(type(value).__name__, _options(_parts(value)))
            hint = type(value)
        default = "(default: none)" if part.value in ((), [], "") else None
        option = tyro.conf.arg(
            name=part.name.replace("_", "-"), help=about or None, help_behavior_hint=default
        )
        hint = tyro.conf.Positional[hint] if part.positional else hint
        fields.append((f"part_{number}", Annotated[hint, option]))
        values.append(value)
    kind = dataclasses.make_dataclass(name, fields, frozen=True)
    kind.__doc__ = " "  # else tyro prints the one that dataclasses write
    return kind(*values)


def _changed(value: Any, found: Mapping[str, Any], path: str = "") -> Any:
    """A group with the parts that were found, of which some are as they were.

    Raises ConfigError, which names the option, where the group refuses them.
    """
    changed = {}
    for part in _options(_parts(value)):
        new, name = found.get(part.name, part.value), part.name
        if _parts(part.value) is not None and new is not part.value:
            inner = [inner.name for inner in _options(_parts(part.value))]
            parsed = dict(zip(inner, vars(new).values(), strict=True))
            new = _changed(part.value, parsed, f"{path}.{name}".lstrip("."))
        if new is not part.value and new != part.value:
            changed[name] = new
    if not changed:
        return value
    if isinstance(value, Experiment):
        stages = {name: changed.pop(name) for name in _own(value) if name in changed}
        if "evaluators" in changed:
            changed["evaluators"] = tuple(changed["evaluators"].values())
        return dataclasses.replace(value, stages={**value.stages, **stages}, **changed)
    if isinstance(value, Mapping):
        return {**value, **changed}
    if isinstance(value, tuple | list):
        return type(value)(changed.get(str(n), inner) for n, inner in enumerate(value))
    named = lambda name: f"{name}_" if keyword.iskeyword(name) else name
    changed = {named(name): new for name, new in changed.items()}
    if not path:
        return dataclasses.replace(value, **changed)
    with inside(path):
        return dataclasses.replace(value, **changed)


def refuse_unknown(roots: Sequence[Any], arguments: Sequence[str]) -> None:
    """Raises UserError where an argument names no option: why, and which one is near it."""
    parts, found = _top(roots), paths(roots)
    known = {path for path, _ in found}
    known |= {_no(path) for path, part in found if part.hint is bool}
    for argument in arguments:
        name, path = argument.split("=")[0], _path(argument)
        if not name.startswith("--") or name in ("--", *HELP) or path in known:
            continue
        why = _why_unknown(parts, path.split("."))
        near = None if FILE in why else _near(path, known)
        hint = f"; did you mean --{near.replace('_', '-')}?" if near else ""
        if not near and len(found) <= LISTED:
            names = [f"--{each.replace('_', '-')}" for each, _ in found]
            hint = f"; options: {', '.join(names)}"
        raise UserError(f"{name}: {why}{hint}")


def _near(path: str, known: Collection[str]) -> str | None:
    """An option whose last name is spelt nearly so, or the names above it; or for a name without
    its group the options that it may be."""
    above, _, last = path.rpartition(".")
    split = [option.rpartition(".") for option in known]
    beside = [name for group, _, name in split if group == above]
    if near := difflib.get_close_matches(last, beside, 1, 0.7):
        return f"{above}.{near[0]}".lstrip(".")
    others = [f"{group}.{name}" for group, _, name in split if name == last and group]
    if not above and others:
        return " or --".join(sorted(others)[:3])
    return next(iter(difflib.get_close_matches(path, others, 1, 0.8)), None)


def _path(argument: str) -> str:
    """Of the option that an argument names, if it does: "ppo.kl.coefficient"."""
    return argument.split("=")[0].lstrip("-").replace("-", "_")


def _no(path: str) -> str:
    *above, last = path.split(".")
    return ".".join([*above, f"no_{last}"])


def tokens_of(path: str, text: str, part: Part) -> list[str]:
    """An option and its value as arguments. Of several values the text has all, between spaces."""
    if part.hint is bool:
        allowed = {"true": path, "false": _no(path)}
        require(text.lower() in allowed, path, text, "True or False")
        return [f"--{allowed[text.lower()]}"]
    several = get_origin(part.hint) in (tuple, list, collections.abc.Sequence)
    return [f"--{path}", *text.split()] if several else [f"--{path}={text}"]


def paths(roots: Sequence[Any]) -> list[tuple[str, Part]]:
    """Every option of the roots, as "ppo.kl.coefficient"."""
    return _paths(_top(roots), "")


def _paths(parts: Sequence[Part], above: str) -> list[tuple[str, Part]]:
    found = []
    for part in _options(parts):
        path, below = f"{above}{part.name}", _parts(part.value)
        found += [(path, part)] if below is None else _paths(below, f"{path}.")
    return found


def _why_unknown(parts: Sequence[Part], names: list[str]) -> str:
    """Why --a.b.c is no option."""
    group, path = None, []
    for name in names:
        below = {part.name: part for part in parts}
        if name not in below:
            break
        group, path = below[name], [*path, name]
        parts = _parts(group.value) or ()
    if group is None:
        return "no such option"
    told, place = names[len(path) :], ".".join(path)
    if not told:
        if _parts(group.value) is None:
            return f"{place} is not text: {FILE} sets it"
        return "it names a group of options, not one"
    if _parts(group.value) is None:
        is_leaf = _is_worded(group.hint)
        return "no such option" if is_leaf else f"{place} is {group.value!r} in {FILE}"
    if not _is_config(group.value):
        return "no such option"
    kind = type(group.value)
    others = [each.__name__ for each in _allowed(group.hint) if told[0] in _names(each)]
    about = f"{place} is of the class {kind.__name__}, which has no field {told[0]}"
    if others:
        verb = "has" if len(others) == 1 else "have"
        about += f"; {' and '.join(others)} {verb} it: {FILE} sets the class"
    return about


def _names(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _allowed(hint: Any) -> list[type]:
    """The dataclasses that a field may hold: members of a union, and what is below a class."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    found: dict[type, None] = {}
    while members:
        kinds = [kind for kind in members if isinstance(kind, type)]
        found |= dict.fromkeys(kind for kind in kinds if dataclasses.is_dataclass(kind))
        members = [below for kind in kinds for below in kind.__subclasses__()]
    return list(found)
