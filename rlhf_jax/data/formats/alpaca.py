"""Instructions with inputs and outputs: Alpaca, Dolly, Self-Instruct."""

from collections.abc import Iterator

from rlhf_jax.data.formats.item import Format, Item, Left, asked, field, has


def instruction(text: str, more: str, system: str = ""):
    """A user's turn: an instruction, and after an empty line its input, if there is one."""
    if not (text + more).strip():
        raise Left("an empty turn")
    return asked(f"{text}\n\n{more}" if more.strip() else text, system)


def answer(text: str) -> str:
    if not text.strip():
        raise Left("an empty turn")
    return text


def read_alpaca(where: str, row: dict, by: str) -> Iterator[Item]:
    """{instruction, input, output}, perhaps with {system}."""
    texts = (field(where, row, name, str) for name in ("instruction", "input", "output"))
    said, more, output = texts
    system = field(where, row, "system", str) if "system" in row else ""
    yield Item(instruction(said, more, system), (answer(output),))


def read_dolly(where: str, row: dict, by: str) -> Iterator[Item]:
    """{instruction, context, response}"""
    texts = (field(where, row, name, str) for name in ("instruction", "context", "response"))
    said, more, output = texts
    yield Item(instruction(said, more), (answer(output),))


def read_self_instruct(where: str, row: dict, by: str) -> Iterator[Item | Left]:
    """{instruction, instances: [{input, output}]}: an item for each instance."""
    said = field(where, row, "instruction", str)
    for number, each in enumerate(field(where, row, "instances", list)):
        place = f"{where}: field 'instances[{number}]'"
        more, output = (field(place, each, name, str) for name in ("input", "output"))
        try:
            yield Item(instruction(said, more), (answer(output),))
        except Left as reason:
            yield reason


FORMATS = (
    Format("Alpaca", lambda row: has(row, instruction=str, input=str, output=str),
           read_alpaca, ("demonstrations",), source="https://github.com/tatsu-lab/stanford_alpaca"),
    Format("Dolly", lambda row: has(row, instruction=str, context=str, response=str),
           read_dolly, ("demonstrations",), licence="CC BY-SA 3.0",
           source="https://huggingface.co/datasets/databricks/databricks-dolly-15k"),
    Format("Self-Instruct", lambda row: has(row, instruction=str, instances=list),
           read_self_instruct, ("demonstrations",), licence="Apache-2.0", called=("selfinstruct",),
           source="Wang et al. 2022, arXiv 2212.10560"),
)  # fmt: skip
