"""Every module can be imported where the modules that only POSIX has are missing."""

import subprocess
import sys

IMPORT_ALL = """
import importlib, pkgutil, sys

for name in ("fcntl", "termios", "tty", "pwd", "grp", "resource"):
    sys.modules[name] = None  # importing it raises ImportError

import landline

failed = []
for module in pkgutil.walk_packages(landline.__path__, "landline."):
    if module.name.rpartition(".")[2] == "__main__" or ".migrations." in module.name:
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        failed.append(f"{module.name}: {error}")
print("\\n".join(failed))
"""


def test_no_module_needs_the_modules_of_posix_to_be_imported() -> None:
    # The standard library's own subprocess and tempfile are imported first: on Windows they do without.
    program = "import asyncio, tempfile, subprocess, shutil, pathlib, getpass, multiprocessing\n" + IMPORT_ALL
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    assert [line for line in ended.stdout.splitlines() if line] == []
