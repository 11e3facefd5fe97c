"""``python -m landline``: the command line."""

from landline.cli import main

main()
