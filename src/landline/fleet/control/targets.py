"""Which machines a request's targets match. Pure."""

from __future__ import annotations

import bisect
import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Final

from landline.fleet.api import OperationError
from landline.fleet.model import Machine

TARGETS_MAX: Final = 1000
TARGET_CHARACTERS_MAX: Final = 200
"""A machine's name has at most 64; a pattern may spell out some of its characters as sets."""
PATTERNS_MAX: Final = 20
"""Targets of one request that are patterns. Each is compared with the name of every machine."""
HINT_NAMES_MAX: Final = 500
"""Names that an unknown one is compared with for a suggestion."""


def check_targets(targets: Sequence[str], all_machines: bool) -> None:
    """Check the number and the length of targets.

    :raises OperationError: if they are invalid or would take too long to resolve, whatever machines there are.
    """
    if all_machines and targets:
        raise OperationError("bad_request", "name targets or ask for all machines, not both")
    if len(targets) > TARGETS_MAX:
        raise OperationError("bad_request", f"more than {TARGETS_MAX} targets; use a pattern")
    longest = max(targets, key=len, default="")
    if len(longest) > TARGET_CHARACTERS_MAX:
        raise OperationError(
            "bad_request",
            f"the target {longest[:80]!r}… is longer than {TARGET_CHARACTERS_MAX} characters; give a shorter one",
        )
    if sum(map(_is_pattern, targets)) > PATTERNS_MAX:
        raise OperationError(
            "bad_request", f"more than {PATTERNS_MAX} patterns; use fewer, or the names of the machines"
        )


def resolve_targets(targets: Sequence[str], all_machines: bool, machines: Iterable[Machine]) -> list[Machine]:
    """Return the machines that names and patterns match, in order of name.

    :raises OperationError: if there are no targets, or one of them matches nothing. Both are mistakes, and neither
        may mean "all" or "none".
    """
    check_targets(targets, all_machines)
    ordered = sorted(machines, key=lambda machine: machine.name)
    if all_machines:
        if not ordered:
            raise OperationError("empty_target", "there are no machines yet; start an agent on one first")
        return ordered
    if not targets or not all(targets):
        raise OperationError(
            "empty_target", "no target; name a machine, a pattern such as 'lab-*', or all machines"
        )
    by_name = {machine.name: machine for machine in ordered}
    found: dict[str, Machine] = {}
    for target in targets:
        if _is_pattern(target):
            matches = re.compile(fnmatch.translate(target)).match
            names = [name for name in by_name if matches(name)]
        else:
            names = [target] if target in by_name else []
        if not names:
            raise OperationError("unknown_target", _unknown_target(target, list(by_name)))
        found.update((name, by_name[name]) for name in names)
    return sorted(found.values(), key=lambda machine: machine.name)


def _is_pattern(target: str) -> bool:
    return any(char in target for char in "*?[")


def _unknown_target(target: str, names: list[str]) -> str:
    what = "no machine matches" if _is_pattern(target) else "there is no machine called"
    # Only neighbours in the alphabet: comparing with thousands of names would take too long.
    here = bisect.bisect(names, target)
    near = names[max(0, here - HINT_NAMES_MAX // 2) : here + HINT_NAMES_MAX // 2]
    close = difflib.get_close_matches(target, near, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else "; 'landline ls' shows all names"
    return f"{what} {target[:80]!r}{hint}"
