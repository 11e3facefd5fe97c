"""A control server that runs as a service is found from a login shell: real users, in a /run of their own."""

import os
import shutil
import subprocess
import sys

import pytest

AS = (
    "setpriv --reuid={user} --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search "
    "env -i PATH=/usr/bin:/bin HOME=/run/state"
)
"""Another user, who may read what the tests run from, wherever that is."""

SCRIPT = """
set -eu
mount -t tmpfs -o mode=0755 tmpfs /run
install -d -o nobody -m 0700 /run/landline /run/state
{serve} &
server=$!
trap 'kill $server 2>/dev/null || :; wait $server || :' EXIT
while [ ! -S /run/landline/control.sock ]; do kill -0 $server; sleep 0.05; done
{commands}
"""


@pytest.fixture
def service():
    """Runs commands beside a control server that systemd would have started as the user ``nobody``."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "mount"))):
        pytest.skip("needs root, unshare, setpriv and mount")

    def run(commands: str) -> subprocess.CompletedProcess[str]:
        landline = f"{sys.executable} -m landline"
        serve = f"{landline} serve --data /run/state/control --listen tcp://127.0.0.1:0"
        script = SCRIPT.format(
            serve=f"{AS.format(user='nobody')} RUNTIME_DIRECTORY=/run/landline {serve}",
            commands=commands.format(landline=landline),
        )
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "XDG_RUNTIME_DIR": "/run/user/0"},
        )

    return run


def test_root_finds_the_server_of_the_system(service):
    ended = service("{landline} ls")
    assert ended.returncode == 0, ended.stderr
    assert "0 machines" in ended.stdout


def test_another_user_gets_a_sentence_about_the_owner(service):
    ended = service(AS.format(user="daemon") + " {landline} ls || echo status $?")
    assert "status 3" in ended.stdout
    assert "unix:///run/landline/control.sock" in ended.stderr
    assert "belongs to another user" in ended.stderr


def test_the_error_names_every_place_that_was_searched(cli, directory):
    environment = {**cli.environment, "XDG_RUNTIME_DIR": str(directory)}
    del environment["LANDLINE_RUNTIME_DIR"]
    # A control server of this machine may be running, and would answer.
    system = directory / "system"
    program = (
        "import os, pathlib, sys; os.getuid = lambda: 4000000001; from landline.fleet import paths; "
        "paths.SERVICE_DIRECTORY = pathlib.Path(sys.argv.pop(1)); from landline.cli import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, system, "ls"], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 3
    assert ended.stderr == (
        f"No control server answers on this machine (at {directory}/landline/control.sock, "
        f"/tmp/landline-4000000001/control.sock or {system}/control.sock); start one with 'landline demo' or "
        "'landline serve', or name its address with --server.\n"
    )
