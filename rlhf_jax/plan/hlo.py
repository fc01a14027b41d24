"""Collectives and cycles of a compiled program, read from its HLO text.

XLA's own `cost_analysis` counts the body of a loop once. The text contains every loop's body and
condition, so that the counts here are multiplied by the loop's iterations, also in nested loops.
"""

import dataclasses
import math
import re
from collections import Counter

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2,
         "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}  # fmt: skip
KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute",
         "ragged-all-to-all", "collective-broadcast")  # fmt: skip
CALLS = ("fusion", "call", "async-start", "custom-call")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = ")
HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$")
SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
CALLED = re.compile(r"(?:calls|to_apply|called_computation)=%?([\w.-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool


@dataclasses.dataclass
class Cost:
    """The cost of one run of a program on one chip.

    collectives: bytes that the chip sends, by kind. cycles: the compiler's estimate, without waits
    for other chips. unknown: loops counted once, because the text does not give their iterations.
    """

    collectives: Counter
    cycles: float = 0.0
    unknown: int = 0

    def add(self, other: "Cost", times: float = 1) -> None:
        for kind, sent in other.collectives.items():
            self.collectives[kind] += sent * times
        self.cycles += other.cycles * times
        self.unknown += other.unknown

    @property
    def sent(self) -> float:
        return sum(self.collectives.values())


@dataclasses.dataclass(frozen=True)
class Module:
    computations: dict[str, list[Instruction]]
    entry: str
    partitions: int = 1

    def loops(self, computation: str | None = None, times: int = 1) -> list[tuple]:
        """(loop, its iterations or None, how often it is started), nested loops included."""
        found = []
        for i in self.computations[computation or self.entry]:
            if i.opcode == "while":
                turns = self.turns(i)
                found.append((i, turns, times))
                found += self.loops(called(i, "body"), times * (turns or 1))
        return found

    def turns(self, loop: Instruction) -> int | None:
        """Iterations of a loop: from its backend config, or from `index < bound` and the step that
        its body adds to the index. None where neither is there."""
        if known := re.search(r'"?known_trip_count"?:\{"n":"?(\d+)"?\}', loop.attributes):
            return int(known[1])
        compared = self._comparison(called(loop, "condition"), {})
        if compared is None:
            return None
        index, bound = compared
        body = self.computations[called(loop, "body")]
        named = {i.name: i for i in body}
        root = next(i for i in body if i.root)
        step = 1  # more where the compiler has unrolled the loop
        if root.opcode == "tuple" and (last := named.get(root.operands[index])):
            added = [named[o] for o in last.operands if last.opcode == "add" and o in named]
            constants = [int(i.operands[0]) for i in added if i.opcode == "constant"]
            step = constants[0] if constants and constants[0] > 0 else 1
        return max(0, -(-bound // step))

    def _comparison(self, computation: str, given: dict) -> tuple[int, int] | None:
        """(index in the loop's tuple, bound) of the comparison LT in a condition.

        given: the parameters of a called computation, in the form of `known` below.
        """
        known = {}  # name -> ("index", place in the tuple) or ("constant", value)
        for i in self.computations[computation]:
            if i.opcode == "parameter":
                known[i.name] = given.get(int(i.operands[0]))
            elif i.opcode == "get-tuple-element":
                known[i.name] = ("index", int(re.search(r"index=(\d+)", i.attributes)[1]))
            elif i.opcode == "constant" and i.operands and i.operands[0].lstrip("-").isdigit():
                known[i.name] = ("constant", int(i.operands[0]))
            elif i.opcode in ("copy", "bitcast", "reshape", "convert"):
                known[i.name] = known.get(i.operands[0])
            elif i.opcode == "compare" and "direction=LT" in i.attributes:
                left, right = (known.get(o) or ("", 0) for o in i.operands)
                if (left[0], right[0]) == ("index", "constant"):
                    return left[1], right[1]
            elif inside := CALLED.search(i.attributes):
                inner = {n: known.get(o) for n, o in enumerate(i.operands)}
                if found := self._comparison(inside[1], inner):
                    return found
        return None

    def cost(self) -> Cost:
        return self.cost_of(self.entry)

    def cost_of(self, computation: str) -> Cost:
        """The cost of one run of a computation, its loops and calls included."""
        total, seen = Cost(Counter()), set()
        self._walk(computation, total, seen)
        return total

    def _walk(self, computation: str, total: Cost, seen: set) -> None:
        """Adds a computation's cost to `total`.

        seen: channels that were counted already in the same loop body. An asynchronous collective
        is split over several computations, all with the same channel."""
        instructions = self.computations[computation]
        shapes = {i.name: i.shape for i in instructions}
        for i in instructions:
            if cycles := re.search(r'"estimated_cycles":"(\d+)"', i.attributes):
                total.cycles += int(cycles[1])
            kind = i.opcode.removesuffix("-start")
            if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"  # on TPUs written as an all-reduce fused with a slice
            if kind in KINDS:
                channel = re.search(r"channel_id=(\d+)", i.attributes)
                mark = channel[1] if channel else (computation, i.name)
                if mark not in seen:
                    seen.add(mark)
                    total.collectives[kind] += _sent(kind, i, shapes, self.partitions)
            elif i.opcode == "while":
                turns = self.turns(i)
                if turns is None:
                    total.unknown += 1
                total.add(self.cost_of(called(i, "body")), 1 if turns is None else turns)
            elif i.opcode == "conditional":
                branches = re.search(r"branch_computations=\{([^}]*)\}", i.attributes)
                names = branches[1].split(",") if branches else [
                    called(i, "true_computation"), called(i, "false_computation")
                ]  # fmt: skip
                costs = [self.cost_of(name.strip().lstrip("%")) for name in names]
                total.add(max(costs, key=lambda cost: (cost.sent, cost.cycles)))
            elif i.opcode in CALLS and (inside := CALLED.search(i.attributes)):
                self._walk(inside[1], total, seen)


def parse(text: str) -> Module:
    """The computations of a compiled module's `as_text()`."""
    lines, entry, current = {}, None, None
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = lines[header[2]] = []
            entry = header[2] if header[1] else entry
        elif line == "}":
            current = None
        elif current is not None and INSTRUCTION.match(line):
            current.append(line)
        elif current:  # a kernel's attributes go on over several lines, and one begins with "}"
            current[-1] += line
    if entry is None:
        raise ValueError("no ENTRY computation in this HLO text")
    computations = {name: [_instruction(line) for line in found] for name, found in lines.items()}
    told = re.search(r"num_partitions=(\d+)", text[: text.index("\n")])
    return Module(computations, entry, int(told[1]) if told else 1)


def _instruction(line: str) -> Instruction:
    found = INSTRUCTION.match(line)
    root, name, rest = bool(found[1]), found[2], line[found.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    operands = tuple(re.findall(r"%([\w.-]+)", inside)) or tuple(filter(None, [inside.strip()]))
    return Instruction(name, shape, rest[:opening], operands, rest[closing + 1 :], root)


def _closing(text: str, opening: int) -> int:
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"unbalanced: {text[:80]}")


def called(instruction: Instruction, name: str) -> str:
    """The computation that an attribute of an instruction names."""
    return re.search(rf"{name}=%?([\w.-]+)", instruction.attributes)[1]


def bytes_of(shape: str) -> float:
    """Bytes of an array, or of all arrays of a tuple: "f32[4,8]{1,0}" -> 128."""
    total = 0.0
    for dtype, sides in SHAPE.findall(shape):
        if dtype in BYTES:
            total += BYTES[dtype] * math.prod(int(side) for side in sides.split(",") if side)
    return total


def group_size(attributes: str, partitions: int) -> int:
    """The number of chips in a group of a collective, in any of XLA's notations for groups.

    Raises ValueError for an unknown notation.
    """
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sides = {axis: int(side) for axis, side in re.findall(r"'([^']+)'=(\d+)", named[1])}
        size = 1
        for axis, part in re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named[2]):
            size *= int(part) if part else sides[axis]
        return size
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=", attributes):
        return int(iota[1].split(",")[-1])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return listed[1].count(",") + 1
    if "replica_groups={}" in attributes or "replica_groups=" not in attributes:
        return partitions
    raise ValueError(f"groups of chips are written in a way not known here: {attributes[:200]}")


def _sent(kind: str, i: Instruction, shapes: dict[str, str], partitions: int) -> float:
    """Bytes that a chip sends in a ring of n chips: a share s = W / n in each of n - 1 steps.

    all-gather of shares s: (n - 1) s; reduce-scatter of W: (n - 1)/n W; all-reduce of W does both:
    2 (n - 1)/n W; all-to-all of W: (n - 1)/n W; permute of W: W.
    """
    whole = sum(bytes_of(shapes.get(o, "")) for o in i.operands)
    if kind in ("collective-permute", "collective-broadcast"):
        return whole
    n = group_size(i.attributes, partitions)
    factor = {"all-gather": n - 1, "all-reduce": 2 * (n - 1) / n}.get(kind, (n - 1) / n)
    return factor * whole
