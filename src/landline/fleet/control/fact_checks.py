"""Checks of what agents send about their machines. Every field is hostile (promise P7). Pure."""

from __future__ import annotations

import msgspec

from landline import RequestError, safe_text
from landline.fleet.messages import PERSON_CHARACTERS_MAX, PERSONS_MAX, FactsChecked
from landline.fleet.model import Facts

MACHINE_ID_CHARACTERS_MIN = 8
MACHINE_ID_CHARACTERS_MAX = 64


def check_facts(facts: Facts) -> Facts:
    """Return the facts if every field is within its bounds.

    :raises RequestError: if one is not.
    """
    if len(facts.persons) > PERSONS_MAX:
        # Before each of them is checked.
        raise RequestError("bad_facts", f"the agent reports more than {PERSONS_MAX} persons")
    try:
        checked = msgspec.convert(msgspec.to_builtins(facts), FactsChecked)
    except msgspec.ValidationError as error:
        raise RequestError("bad_facts", f"the agent's facts are invalid: {safe_text(str(error))}") from error
    if any(len(person.name) + len(person.seat) > PERSON_CHARACTERS_MAX for person in checked.persons):
        raise RequestError("bad_facts", "the agent reports a person whose name is too long")
    return Facts(**{field: getattr(checked, field) for field in Facts.__struct_fields__})


def is_machine_id(identity: str) -> bool:
    """Return whether an identity has the form of a machine id."""
    return MACHINE_ID_CHARACTERS_MIN <= len(identity) <= MACHINE_ID_CHARACTERS_MAX and all(
        char.isascii() and (char.isalnum() or char == "-") for char in identity
    )
