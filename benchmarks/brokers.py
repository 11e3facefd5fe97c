"""The message brokers among the peers: separate programs, configured according to their documentation."""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final

from benchmarks.bulk_connect import connect
from benchmarks.clients import MQTT_PUBLISH, NATS_PUBLISH
from benchmarks.peers import find_program

START_TIMEOUT_S: Final = 10.0

NATS_CONFIG: Final = """
host: 127.0.0.1
port: {port}
max_connections: 64000
ping_interval: "{heartbeat_ms}ms"
write_deadline: "30s"
"""
MOSQUITTO_CONFIG: Final = """
listener {port} 127.0.0.1
allow_anonymous true
persistence false
log_dest stderr
log_type error
set_tcp_nodelay true
max_connections -1
"""


class Broker:
    """A broker that runs while its context is active."""

    def __init__(
        self, kind: str, program: str, options: tuple[str, ...], config: str, message: bytes
    ) -> None:
        self._kind = kind
        self._message = message
        self._publisher: socket.socket | None = None
        path = find_program(program)
        if path is None:
            raise FileNotFoundError(f"{program} is not installed")
        self.port = _free_port()
        self._directory = tempfile.TemporaryDirectory()
        config_path = Path(self._directory.name, f"{program}.conf")
        config_path.write_text(config.replace("{port}", str(self.port)), encoding="utf-8")
        # Debian's Mosquitto drops root privileges before it reads this file.
        Path(self._directory.name).chmod(0o755)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [path, *options, str(config_path)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            preexec_fn=_end_with_parent,
        )

    def __enter__(self) -> Broker:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._publisher = connect(f"{self._kind}_publisher", self.port, 1)[0].sock
                return self
            except ConnectionRefusedError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self._log.seek(0)
                    said = self._log.read().decode(errors="replace")[-2000:]
                    self.__exit__(None, None, None)
                    raise OSError(f"{self._kind} did not start: {said}") from None
                time.sleep(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._publisher is not None:
            self._publisher.close()
        self._process.kill()
        self._process.wait()
        self._log.close()
        self._directory.cleanup()

    @property
    def pid(self) -> int:
        """Return the id of the measured process."""
        return self._process.pid

    def publish(self) -> None:
        """Publish one message to all subscribers."""
        assert self._publisher is not None
        self._publisher.sendall(self._message)


def nats_server(heartbeat_s: float) -> Broker:
    """nats-server, without JetStream."""
    config = NATS_CONFIG.replace("{heartbeat_ms}", str(int(heartbeat_s * 1000)))
    return Broker("nats", "nats-server", ("-c",), config, NATS_PUBLISH)


def mosquitto(heartbeat_s: float) -> Broker:
    """Mosquitto. In MQTT the client decides when to ping."""
    return Broker("mosquitto", "mosquitto", ("-c",), MOSQUITTO_CONFIG, MQTT_PUBLISH)


def _end_with_parent() -> None:
    """Let the kernel end the broker if this process is killed (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
