"""What a compiled program sends between devices, read from its optimised HLO."""

import math
import re
from collections import Counter
from typing import NamedTuple

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(_KINDS)})(-start)?\(")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|to_apply|calls|branch_computations)=\{?([%\w.\-, ]+)\}?")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Collective(NamedTuple):
    """One kind of transfer.

    Attributes:
        kind: "all-reduce", "all-gather", "reduce-scatter", "all-to-all" or "collective-permute".
        shapes: of its results on one device, as HLO writes them.
        num_devices: in a group that exchanges.
        num_bytes: of the results.
    """

    kind: str
    shapes: tuple[str, ...]
    num_devices: int
    num_bytes: int

    @property
    def moved_bytes(self) -> float:
        """What one device sends, by ring algorithms.

        An all-reduce of s bytes over n devices sends 2 (n - 1) / n s, a gather of s bytes and a
        scatter to s bytes (n - 1) / n of the whole.
        """
        n = self.num_devices
        share = (n - 1) / n
        factors = {"all-reduce": 2 * share, "reduce-scatter": n - 1, "collective-permute": 1.0}
        return factors.get(self.kind, share) * self.num_bytes


def read_collectives(hlo: str) -> Counter[Collective]:
    """The transfers of one run of a program, and how often each is made.

    Those in the body of a loop count as often as it runs.

    Args:
        hlo: `compiled.as_text()`.
    """
    found: dict[str, list[Collective]] = {}
    calls: dict[str, list[tuple[str, int]]] = {}
    name = entry = ""
    for line in hlo.splitlines():
        if head := _HEAD.match(line):
            name = head[2]
            entry = name if head[1] else entry
            found[name], calls[name] = [], []
        elif name:
            found[name] += _collective(line)
            calls[name] += _called(line)
    return _count(entry, found, calls)


def _count(
    name: str, found: dict[str, list[Collective]], calls: dict[str, list[tuple[str, int]]]
) -> Counter[Collective]:
    total = Counter(found.get(name, ()))
    for called, times in calls.get(name, ()):
        for collective, number in _count(called, found, calls).items():
            total[collective] += times * number
    return total


def _collective(line: str) -> list[Collective]:
    match = _COLLECTIVE.search(line)
    if match is None:
        return []
    shapes = [shape for shape in _SHAPE.findall(match[1]) if shape[0] in _BYTES]
    if match[3]:  # the start of an asynchronous one has its operands before its results
        shapes = shapes[len(shapes) // 2 :]
    num_bytes = sum(_BYTES[kind] * math.prod(_sides(sides)) for kind, sides in shapes)
    texts = tuple(f"{kind}[{sides}]" for kind, sides in shapes)
    return [Collective(match[2], texts, _group_size(line), num_bytes)]


def _called(line: str) -> list[tuple[str, int]]:
    trips = _TRIPS.search(line)
    times = int(trips[1]) if trips else 1
    return [
        (name.strip().removeprefix("%"), times)
        for names in _CALLED.findall(line)
        for name in names.split(",")
    ]


def _group_size(line: str) -> int:
    """Devices of a group, as HLO writes it; 2 for the pairs of a permutation.

    >>> _group_size("replica_groups={{0,1,2,3},{4,5,6,7}}")
    4
    >>> _group_size("replica_groups=[4,2]<=[8]")
    2
    >>> _group_size("replica_groups=mesh['x'=2,'y'=8] {'x','y':(2)4}")
    8
    """
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(iota[2])
    if groups := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(groups[1].split(","))
    return 2


def _sides(text: str) -> list[int]:
    return [int(side) for side in text.split(",") if side]
