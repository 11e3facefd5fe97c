"""That Ctrl-C reaches the programs that tests start, however the tests themselves were started."""

import subprocess
import sys
from pathlib import Path

CHILD = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"


def test_a_program_takes_ctrl_c_also_when_the_tests_were_started_in_the_background():
    """Runs the test below as a shell runs what it starts in the background: with SIGINT ignored."""
    ended = subprocess.run(
        [
            *("sh", "-c", 'trap "" INT; exec "$0" "$@"', sys.executable, "-m", "pytest", "-q", "-n", "0"),
            *("-p", "no:cacheprovider", f"{__file__}::test_a_program_takes_ctrl_c"),
        ],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_program_takes_ctrl_c():
    started = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True)
    assert started.stdout == "True\n"
