"""What a compiled program moves: bytes of memory it reads and writes, and bytes its devices send each other.

XLA's own analysis counts the body of a loop once, and of GPUs there is none, so both are read off the program's text:
each instruction as often as the loops around it turn.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

SIZES = {"pred": 1, "token": 0, "opaque": 0}
ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
ON_CHIP = "S(1)"
"""In the layout of an array: it lies in a TPU's vector memory."""
NAME = re.compile(r"%([\w.\-]+)")
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*->.*\{$")
TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
CONDITION = re.compile(r"condition=%?([\w.\-]+)")
CALLED = re.compile(r"(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
IOTA = r"\[[\d,]+\](?:T\([\d,]+\))?"
NOTHING = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
    "opt-barrier", "domain", "custom-call-done",
}  # fmt: skip
CALLS = {"while", "call", "conditional"}
SLICES = {"dynamic-slice", "gather", "slice"}


@dataclass(frozen=True)
class Exchange:
    """A kind of exchange among groups of `group` devices. sent: bytes that each device sends, `count` times in all, of
    a ring's steps: (n - 1) / n of what is gathered or scattered, twice that of an all-reduce. span: of how many
    neighbours in a row the widest group is part; 9 for two devices whose places are 0 and 8."""

    kind: str
    group: int
    span: int
    count: float
    sent: float


@dataclass(frozen=True)
class Traffic:
    """Of one device. moved: bytes between its memory and its cores, of each fused kernel's inputs and outputs."""

    moved: float
    exchanges: tuple[Exchange, ...]

    @property
    def sent(self) -> float:
        return math.fsum(e.sent for e in self.exchanges)


@dataclass
class _Instruction:
    name: str
    kind: str
    shape: str
    operands: list[str]
    rest: str
    root: bool

    @property
    def size(self) -> int:
        """Bytes in the device's main memory."""
        return nbytes(self.shape, on_chip=False)


@dataclass
class _Computation:
    instructions: dict[str, _Instruction] = field(default_factory=dict)
    parameters: dict[int, str] = field(default_factory=dict)

    @property
    def root(self) -> _Instruction:
        return next(i for i in self.instructions.values() if i.root)

    def users(self, name: str) -> Iterator[_Instruction]:
        """Those that read a value, looked for through bitcasts."""
        for i in self.instructions.values():
            if name in i.operands:
                yield from self.users(i.name) if i.kind == "bitcast" else (i,)


def nbytes(shape: str, on_chip: bool = True) -> int:
    """Bytes of an array or a tuple as HLO writes its shape. on_chip: with those that lie beside the cores."""
    total = 0.0
    for kind, sizes, layout in ARRAY.findall(shape):
        if ON_CHIP in layout and not on_chip:
            continue
        bits = re.search(r"\d+", kind)
        each = SIZES.get(kind, int(bits[0]) / 8 if bits else 0)
        total += each * math.prod(map(int, sizes.split(","))) if sizes else each
    return int(total)


def traffic(text: str) -> Traffic:
    """The traffic of a compiled program by its text, `compiled.as_text()`."""
    computations, entry = _parsed(text)
    moved, found = 0.0, defaultdict[tuple[str, int, int], list[float]](lambda: [0.0, 0.0])
    for name, times in _times(computations, entry).items():
        here = computations[name]
        for i in here.instructions.values():
            if i.kind in NOTHING or i.kind in CALLS or i.kind.endswith("-done"):
                continue
            moved += times * _moved(i, here, computations)
            for kind, group, span, size in _exchanges(i, here, computations):
                sums = found[kind, group, span]
                sums[0] += times
                sums[1] += times * size
    return Traffic(moved, tuple(Exchange(*key, *sums) for key, sums in sorted(found.items())))


def _parsed(text: str) -> tuple[dict[str, _Computation], str]:
    computations, entry, here = {}, "", _Computation()
    for line in text.splitlines():
        if head := HEAD.match(line):
            here = computations[head[2]] = _Computation()
            entry = head[2] if head[1] else entry
        elif " = " in line and line.startswith("  ") and (found := _instruction(line)):
            here.instructions[found.name] = found
            if found.kind == "parameter":
                here.parameters[int(found.rest.split(")")[0])] = found.name
    return computations, entry


def _instruction(line: str) -> _Instruction | None:
    left, right = line.strip().split(" = ", 1)
    end = _closing(right) if right.startswith("(") else right.find(" ")
    shape, rest = right[:end], right[end:].lstrip()
    kind, bracket, rest = rest.partition("(")
    if not bracket:
        return None
    stop = _closing("(" + rest) - 1
    name = left.removeprefix("ROOT ").lstrip("%")
    return _Instruction(name, kind, shape, NAME.findall(rest[:stop]), rest, left.startswith("ROOT "))


def _closing(text: str) -> int:
    """The place after the bracket that closes the first one."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place + 1
    return len(text)


def _called(instruction: _Instruction) -> list[str]:
    branches = BRANCHES.search(instruction.rest)
    return CALLED.findall(instruction.rest) + (NAME.findall(branches[1]) if branches else [])


def _times(computations: dict[str, _Computation], entry: str) -> dict[str, float]:
    """How often each computation runs that is not within a fusion or a reduction."""
    times: dict[str, float] = defaultdict(float)

    def visit(name: str, count: float) -> None:
        times[name] += count
        for i in computations[name].instructions.values():
            if i.kind in CALLS or i.kind == "async-start":
                turns = _turns(i, computations) if i.kind == "while" else 1
                for called in _called(i):
                    visit(called, count * turns)

    visit(entry, 1.0)
    return times


def _turns(loop: _Instruction, computations: dict[str, _Computation]) -> int:
    """How often a `while` turns: as the compiler knows, or up to the constant that its counter, which starts from 0, is
    compared with; 1 where neither tells."""
    if known := TURNS.search(loop.rest):
        return int(known[1])
    condition = CONDITION.search(loop.rest)
    root = computations[condition[1]].root if condition else None
    if root is None or "direction=LT" not in root.rest:
        return 1
    ends = (computations[condition[1]].instructions.get(name) for name in root.operands) if condition else ()
    limits = [end.rest.split(")")[0] for end in ends if end is not None and end.kind == "constant"]
    return int(limits[0]) if limits and limits[0].isdecimal() else 1


def _moved(i: _Instruction, here: _Computation, computations: dict[str, _Computation]) -> float:
    operands = [here.instructions[name] for name in i.operands if name in here.instructions]
    if i.kind == "async-start":
        return 0.0  # what it calls is counted
    if i.kind.endswith("-start") and i.shape.startswith("(") and i.kind != "all-reduce-start":
        return float(i.size)  # its shape holds what it reads beside what it writes
    if i.kind in SLICES:
        return 2.0 * i.size
    if i.kind == "dynamic-update-slice":
        return 2.0 * operands[1].size
    if i.kind == "fusion":
        return _moved_by_fusion(i, operands, computations[_called(i)[0]])
    return float(i.size + sum(o.size for o in operands))


def _moved_by_fusion(i: _Instruction, operands: list[_Instruction], inside: _Computation) -> float:
    """Of an operand that is only sliced, the slices; of a result that is updated in place, the update twice."""
    total, updated, root = 0.0, set[str](), inside.root
    results = [inside.instructions[name] for name in root.operands] if root.kind == "tuple" else [root]
    for result in results:
        while result.kind in ("bitcast", "copy", "convert") and result.operands[0] in inside.instructions:
            result = inside.instructions[result.operands[0]]
        if result.kind == "dynamic-update-slice":
            updated.add(result.operands[0])
            total += 2.0 * inside.instructions[result.operands[1]].size
        else:
            total += result.size
    for place, operand in enumerate(operands):
        name = inside.parameters.get(place, "")
        users = list(inside.users(name))
        if name in updated or any(u.kind == "dynamic-update-slice" and u.operands[0] == name for u in users):
            continue
        sliced = bool(users) and all(u.kind in SLICES for u in users)
        total += min(operand.size, sum(u.size for u in users)) if sliced else operand.size
    return total


def _exchanges(
    i: _Instruction, here: _Computation, computations: dict[str, _Computation]
) -> Iterator[tuple[str, int, int, float]]:
    """(kind, devices in a group, its span, bytes sent by each) of an instruction, or of what it fuses."""
    kind = i.kind.removesuffix("-start")
    if kind == "fusion":
        inside = computations[_called(i)[0]]
        scattered = any(u.kind == "dynamic-slice" for u in inside.instructions.values())
        for found in inside.instructions.values():
            for kind, group, span, size in _exchanges(found, inside, computations):
                # TPUs fuse an all-reduce with the slice that is kept of it.
                halved = kind == "all-reduce" and scattered
                yield ("reduce-scatter", group, span, size / 2) if halved else (kind, group, span, size)
    elif kind in COLLECTIVES and (groups := _groups(i.rest)).shape[1] > 1:
        group, span = groups.shape[1], int(np.max(np.ptp(groups, axis=1))) + 1
        share = (group - 1) / group
        taken = sum(nbytes(here.instructions[name].shape) for name in i.operands if name in here.instructions)
        # A start's shape may hold its operands as well as its results.
        whole = {"all-gather": taken * group, "all-reduce": 2.0 * taken}.get(kind, taken)
        yield kind, group, span, taken if kind == "collective-permute" else whole * share


def _groups(rest: str) -> np.ndarray:
    """(groups, devices in each): the places of devices that exchange with each other."""
    if "source_target_pairs=" in rest:
        return _listed(rest.partition("source_target_pairs=")[2])
    groups = rest.partition("replica_groups=")[2]
    if groups.startswith("{{"):
        return _listed(groups)
    if iota := re.match(rf"\[(\d+),(\d+)\]<=({IOTA})", groups):
        return _iota(iota[3]).reshape(int(iota[1]), int(iota[2]))
    if mesh := re.match(rf"\w*(?:@\w+)?mesh\[([^\]]*)\](?:, device_ids=\(({IOTA})\))?\s*\{{([^}}]*)\}}", groups):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        chosen = [name for name in re.findall(r"'([^']+)'", mesh[3]) if name in sizes]
        ids = _iota(mesh[2] or f"[{math.prod(sizes.values())}]").reshape(tuple(sizes.values()))
        order = [name for name in sizes if name not in chosen] + chosen
        return ids.transpose([list(sizes).index(name) for name in order]).reshape(
            -1, math.prod(sizes[name] for name in chosen)
        )
    return np.zeros((1, 1), int)


def _listed(text: str) -> np.ndarray:
    """`{{0,1},{2,3}}`."""
    return np.array([[int(n) for n in group.split(",")] for group in text[2 : text.index("}}")].split("},{")])


def _iota(text: str) -> np.ndarray:
    """`[2,4]T(1,0)`: the numbers from 0 in that shape, transposed."""
    sizes, _, order = text.replace(" ", "").partition("T")
    ids = np.arange(math.prod(map(int, sizes[1:-1].split(",")))).reshape([int(n) for n in sizes[1:-1].split(",")])
    return ids.transpose([int(n) for n in order[1:-1].split(",")]) if order else ids
