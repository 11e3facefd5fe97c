"""The machine control system, built on the public names of :mod:`landline` only."""
