"""One target under atheris: ``python -m tests.fuzz.guided TARGET [options of libFuzzer]``. Needs atheris."""

import sys

import atheris

with atheris.instrument_imports(include=["landline"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    function = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, lambda data: function(bytes(data)))
    atheris.Fuzz()
