"""Reads what strace wrote, and tells whether a write was on disk before it was acknowledged.

strace prints a system call when it begins and again when it ends, in an order that keeps cause before effect: a
thread that waits for another's fsync goes on only after the line of its end. So line numbers serve as time."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# What a build of strace is told to watch.
CALLS = "fsync,fdatasync,sync_file_range,write,pwrite64,writev,pwritev,sendto,sendmsg"

_SYNCS = {"fsync", "fdatasync"}
_WRITES = {"write", "pwrite64", "writev", "pwritev", "sendto", "sendmsg"}

# Smaller ones may be HTTP/2's own (SETTINGS, PING, WINDOW_UPDATE and their acknowledgements, 17 bytes at most, and 22
# more in a TLS record each). An answer to a put names the secret, its times and its uid.
_SMALLEST_ANSWER = 100

_BEGIN = re.compile(r"^(?P<thread>\d+) +(?P<call>\w+)\(\d+<(?P<target>(?:->|[^>])*)>")
_RESUMED = re.compile(r"^(?P<thread>\d+) +<\.\.\. (?P<call>\w+) resumed>")
_RESULT = re.compile(r"= (?P<result>-?\d+)(?: [A-Z]+ \(.*\))?$")


@dataclass
class Call:
    """A system call on a file or a socket, from line `begin` to line `end`."""

    name: str
    target: str
    begin: int
    end: int
    result: int


def read(lines: Iterable[str]) -> list[Call]:
    """The calls that ended, in the order in which they began."""
    calls: list[Call] = []
    unfinished: dict[str, Call] = {}
    for number, line in enumerate(lines):
        line = line.rstrip("\n")
        if begin := _BEGIN.match(line):
            call = Call(begin["call"], begin["target"], number, number, -1)
            if line.endswith("<unfinished ...>"):
                unfinished[begin["thread"]] = call
                calls.append(call)
                continue
            calls.append(call)
        elif (resumed := _RESUMED.match(line)) and resumed["thread"] in unfinished:
            call = unfinished.pop(resumed["thread"])
        else:
            continue
        if result := _RESULT.search(line):
            call.end, call.result = number, int(result["result"])
    return [call for call in calls if call.result >= 0]


class NotDurable(Exception):
    """A put was acknowledged that a power loss could undo."""


def check_durable(calls: list[Call], db: str, port: str) -> int:
    """Checks each connection to `port` that changed the file `db`: the file was synced between the last write to it
    and the answer. Answers how many connections that were; each is to carry one put, one after another."""
    clients = dict.fromkeys(call.target for call in calls if re.match(rf"TCP.*:{port}->", call.target))
    durable = 0
    for client in clients:
        sent = [call for call in calls if call.target == client and call.name in _WRITES]
        written = [
            call
            for call in calls
            if call.target == db and call.name in _WRITES and sent[0].begin < call.begin < sent[-1].end
        ]
        if not written:
            continue
        answers = [call for call in sent if call.begin > written[0].begin and call.result >= _SMALLEST_ANSWER]
        if not answers:
            raise NotDurable(f"{client}: answered before anything was written")
        answer = answers[0]
        last = [call for call in written if call.begin < answer.begin][-1]
        if not any(
            call.name in _SYNCS and call.target == db and last.end < call.begin and call.end < answer.begin
            for call in calls
        ):
            raise NotDurable(f"{client}: no sync of {db} between line {last.end + 1} and line {answer.begin + 1}")
        durable += 1
    return durable
