"""Defects that were found once, and safeguards that must not be missing: each is put back into the code.

``python -m tests.mutation --known`` puts them in, one at a time, and runs the tests that are named here. A fault that
these tests do not find has lost its test.
"""

from __future__ import annotations

from typing import Final

import msgspec


class KnownFault(msgspec.Struct, frozen=True, kw_only=True):
    """One small change of one module that brings a fault back."""

    name: str
    what: str
    """What goes wrong for users."""
    module: str
    """The path below ``src/landline``."""
    old: str
    """Text that occurs once in the module. Without comments and docstrings, which change more often than code."""
    new: str
    tests: tuple[str, ...]
    """The test files, or node ids, that must find it. They run one after the other, the quickest first."""
    commit: str = ""
    """The commit that corrected it; empty for a safeguard that was never missing."""
    ablation: str = ""
    """The safeguard of :mod:`tests.simulation.ablations` that it switches off."""

    def apply(self, source: str) -> str:
        """Return the module's source with the fault in it.

        :raises ValueError: if the text to replace does not occur exactly once.
        """
        count = source.count(self.old)
        if count != 1:
            raise ValueError(f"{self.name}: the text to replace occurs {count} times in {self.module}")
        return source.replace(self.old, self.new)


FROM_HISTORY: Final = (
    # Session
    KnownFault(
        name="unread bytes count as silence",
        commit="e6130f9",
        what="A peer is given up although the bytes that it sent in time only wait to be read.",
        module="session/heartbeat.py",
        old="            if self._read_for == self.last_received_at:\n                return Verdict.DEAD\n",
        new="            return Verdict.DEAD\n",
        tests=("tests/session/test_heartbeat.py", "tests/session"),
    ),
    KnownFault(
        name="acknowledgements starve behind a full transport",
        commit="a615bac",
        what="close() waits in vain: a transport that pauses again and again never carries an acknowledgement.",
        module="session/inbound.py",
        old="        self.ack_due = None\n        self._unsent_ack_bytes = self.limits.window_bytes\n",
        new="        self.ack_due = None\n",
        tests=("tests/session",),
    ),
    KnownFault(
        name="a thousand fragments for nothing",
        commit="858a7af",
        what="A peer keeps the event loop busy with fragments of a few bytes, which nothing counts.",
        module="session/inbound.py",
        old="            if len(body) < SMALL_FRAGMENT_BYTES:\n                self.count_redundant(now)\n",
        new="",
        tests=("tests/session/test_session_memory.py",),
    ),
    KnownFault(
        name="anything but a refusal is an identity",
        commit="e7aaf05",
        what="A server whose auth= returns a wrong value, such as True, lets strangers in.",
        module="session/auth.py",
        old='    if result is NO_IDENTITY:\n        return ""\n    raise _wrong_result(',
        new='    if result is not None:\n        return ""\n    raise _wrong_result(',
        tests=("tests/session/test_auth.py",),
    ),
    # Line
    KnownFault(
        name="a cancellation from elsewhere ends the worker",
        commit="c9a3801",
        what="A handler that awaits a task which another program part cancels loses messages and gets no answer sent.",
        module="line/handlers.py",
        old="FAILURES: Final = (Exception, asyncio.CancelledError)\n",
        new="FAILURES: Final = (Exception,)\n",
        tests=("tests/line/test_line.py",),
    ),
    KnownFault(
        name="a handler passes on the errors of its own requests",
        commit="05f02eb",
        what="A caller gets 'no_handler' or 'timeout' for a request that it never made.",
        module="line/handlers.py",
        old="    return isinstance(error, RequestError) and not error.is_outcome\n",
        new="    return isinstance(error, RequestError)\n",
        tests=("tests/line/test_handlers.py", "tests/line/test_pending_requests.py"),
    ),
    KnownFault(
        name="an ended session takes messages",
        commit="4d14f72",
        what="send() fails after a server's goodbye instead of waiting for the next session.",
        module="line/driver.py",
        old=" and session.state is not _SESSION_CLOSED and session.outbound.has_space(size)\n",
        new=" and session.outbound.has_space(size)\n",
        tests=("tests/client/test_connector.py",),
    ),
    KnownFault(
        name="every NOTICE is logged",
        commit="0ecf9c7",
        what="A peer fills the log of the other side with its NOTICEs.",
        module="line/session_events.py",
        old="        link.has_logged_notice = True\n",
        new="",
        tests=("tests/server/test_server.py",),
    ),
    KnownFault(
        name="a closed line gives no reason",
        commit="f7d3587",
        what="The error of a line that ended without a sentence says 'the line is closed: ' and nothing more.",
        module="line/line_state.py",
        old="        return self.detail or self.cause.value\n",
        new="        return self.detail\n",
        tests=("tests/line/test_sending.py",),
    ),
    # Client
    KnownFault(
        name="a server makes its clients spin",
        commit="2b84b14",
        what="Clients of a server that always says 'come back at once' reconnect without a pause.",
        module="client/backoff.py",
        old="self._backoff.first_s if self.failures > IMMEDIATE_RETRIES_MAX else 0.0",
        new="0.0",
        tests=("tests/client/test_backoff.py",),
    ),
    KnownFault(
        name="the 1,025th failure ends the client",
        commit="ff21cab",
        what="A client that could not connect for a night ends with an OverflowError.",
        module="client/endpoint_selector.py",
        old="2.0 ** min(failures - 1, 64)",
        new="2.0 ** (failures - 1)",
        tests=("tests/client/test_endpoint_selector.py",),
    ),
    KnownFault(
        name="a closed line counts as connected",
        commit="659070a",
        what="connect() returns a line that was closed while its addresses were tried, as if it were online.",
        module="client/client_host.py",
        old="                if self.endpoint is None:\n",
        new="                if False:\n",
        tests=("tests/client/test_connector.py",),
    ),
    KnownFault(
        name="the endpoint is known too late",
        commit="d32875b",
        what="connector.endpoint still names the last address when on_state reports the line online at another.",
        module="client/client_host.py",
        old="self.endpoint = welcomed.endpoint\n        welcomed.attach(line, session, phase=self._random.random())\n",
        new="welcomed.attach(line, session, phase=self._random.random())\n        self.endpoint = welcomed.endpoint\n",
        tests=("tests/client",),
    ),
    KnownFault(
        name="a call does not wait for its end",
        commit="e1a895e",
        what="A program that ends with a call() leaves its connection open: the server reports a lost client.",
        module="client/calls.py",
        old="            await self.closer.wait(patience_s)\n",
        new="            pass\n",
        tests=("tests/client/test_calls.py",),
    ),
    KnownFault(
        name="a lost call keeps its cookie",
        commit="23468b4",
        what="After a restart of the server, the next call over udp:// is reported as lost too.",
        module="udp_calls/sockets.py",
        old="        if pending.is_lost:\n            _cookies.pop(key, None)\n        elif pending.cookie:\n",
        new="        if pending.cookie:\n",
        tests=("tests/udp_calls/test_sockets.py",),
    ),
    # Server and transports
    KnownFault(
        name="a BYE is lost while the peer still sends",
        commit="96008dc",
        what="A peer that is sending reads a reset connection instead of the BYE or REJECT and its reason.",
        module="transports/linger.py",
        old="        _write_eof(transport)\n    elif",
        new="        transport.close()\n    elif",
        tests=("tests/faults/test_closes.py",),
    ),
    KnownFault(
        name="what arrived before a failed write is not read",
        commit="96008dc",
        what="A line reports a lost connection although the peer's BYE had arrived before the write failed.",
        module="line/link.py",
        old="            if arrived:\n                self.data_received(arrived)\n",
        new="            del arrived\n",
        tests=("tests/transports/test_linger.py",),
    ),
    KnownFault(
        name="WebSocket frames without payload are free",
        commit="8da6e12",
        what="A stranger holds up a server with a megabyte of empty frames and pings.",
        module="transports/websocket/stream.py",
        old="                if self._idle_frames > IDLE_FRAMES_MAX and frames.state is State.OPEN:\n",
        new="                if False:\n",
        tests=("tests/transports/websocket/test_breaches.py",),
    ),
    KnownFault(
        name="a QUIC stream in a thousand pieces",
        commit="b27d301",
        what="A stranger keeps a server at work for minutes with 2 MB of one-byte pieces.",
        module="transports/quic/connection.py",
        old="    if len(stream.receiver._ranges) > PIECES_MAX:\n",
        new="    if False:\n",
        tests=("tests/transports/quic/test_quic_strangers.py",),
    ),
    KnownFault(
        name="a QUIC server amplifies",
        commit="266fb48",
        what="A server sends a forged address more than three times what it received from there.",
        module="transports/quic/connection.py",
        old="            if sent_bytes <= AMPLIFICATION_MAX * path.bytes_received:\n",
        new="            if True:\n",
        tests=("tests/transports/quic/test_quic_strangers.py",),
    ),
    KnownFault(
        name="the end of an ASGI WebSocket raises",
        commit="adbac5f",
        what="A line that aborts the transport whose end it hears of breaks the ASGI server's task.",
        module="server/asgi.py",
        old="        if not (self._is_over or self._deadline.expired()) and (when is None or due < when):\n",
        new="        if not self._deadline.expired() and (when is None or due < when):\n",
        tests=("tests/server/test_asgi.py",),
    ),
    KnownFault(
        name="other names hide an announced server",
        commit="5185574",
        what="A program that announces a thousand names keeps clients from finding the server by its name.",
        module="discovery/mdns.py",
        old='        return wanted is None or not wanted.name or label.lower().rpartition(" ")[0] == wanted.name\n',
        new="        return True\n",
        tests=("tests/discovery/test_mdns.py",),
    ),
    # Files
    KnownFault(
        name="a partial file stays locked",
        commit="7ae4d6b",
        what="A transfer that ends while its partial file is opened leaves it locked: it cannot be resumed.",
        module="files/partial_file.py",
        old="                return 0, self._hash.digest()\n",
        new="                pass\n",
        tests=("tests/files/test_partial_file.py",),
    ),
    KnownFault(
        name="a directory that is sent",
        commit="099ff17",
        what="Sending a directory leaks its descriptor and reports an error about a number.",
        module="files/source.py",
        old="            os.close(descriptor)\n            raise ConfigurationError(",
        new="            raise ConfigurationError(",
        tests=("tests/files/test_source.py", "tests/files/test_outgoing.py"),
    ),
    KnownFault(
        name="an idle transfer keeps its place",
        commit="58254f8",
        what="A peer that offers files and sends nothing keeps all others from sending theirs.",
        module="files/limits.py",
        old="if transfer.idle_s >= limits.idle_s and count[transfer.peer] > count[newcomer]",
        new="if transfer.idle_s >= limits.idle_s and count[transfer.peer] < count[newcomer]",
        tests=("tests/files/test_limits.py",),
    ),
    # Control server
    KnownFault(
        name="a clock that is set back",
        commit="122d6e9",
        what="A job stays valid for longer than the operator allowed when the time of day is set back.",
        module="fleet/control/clock.py",
        old="        self._now = max(self._wall(), self._now + max(0.0, elapsed - self._read_at))\n",
        new="        self._now = self._wall()\n",
        tests=("tests/fleet/control/test_clock.py",),
    ),
    KnownFault(
        name="machines that are not saved at the end",
        commit="85ef341",
        what="A control server that stops while it stores machines one by one forgets the remaining ones.",
        module="fleet/control/machine_registry.py",
        old="        self._unsaved |= machine_ids\n",
        new="",
        tests=("tests/fleet/control/test_machines.py",),
    ),
    KnownFault(
        name="two machines cannot exchange their names",
        commit="af5636c",
        what="Machines that exchange names are not stored: the database refuses whichever comes first.",
        module="fleet/control/storage.py",
        old="        if name != rows[machine_id][",
        new="        if False and name != rows[machine_id][",
        tests=("tests/fleet/control/test_storage.py",),
    ),
    KnownFault(
        name="a full disk ends a wake-up",
        commit="fe4906a",
        what="A wake job hangs after a moment in which the disk was full: no more packets are sent.",
        module="fleet/control/job_dispatcher.py",
        old="                await self._wake_once(execution)\n            except StorageError as error:\n",
        new="                await self._wake_once(execution)\n            except ZeroDivisionError as error:\n",
        tests=("tests/fleet/control/test_job_dispatcher.py",),
    ),
    KnownFault(
        name="orders out of order",
        commit="bfeb809",
        what="After a restart of the control server a machine gets its orders in another order than they are due.",
        module="fleet/control/job_store.py",
        old="    return list(dict.fromkeys(execution.job_id for execution in executions))\n",
        new="    return list(dict.fromkeys(execution.job_id for execution in reversed(list(executions))))\n",
        tests=("tests/fleet/control/test_job_dispatcher.py",),
    ),
    KnownFault(
        name="endless small postponements",
        commit="9cd7c5e",
        what="An agent that postpones by an instant, again and again, fills the disk of the control server.",
        module="fleet/control/jobs.py",
        old="max(postpone_s, POSTPONED_S_MIN)",
        new="postpone_s",
        tests=("tests/fleet/control/test_jobs.py",),
    ),
    # Agent
    KnownFault(
        name="an agent joins twice",
        commit="3cd2ade",
        what="An agent whose join could not be recorded joins again over a newer session, and is refused.",
        module="fleet/agent/agent.py",
        old="        while line.session_id == session_id and (pause_s",
        new="        while (pause_s",
        tests=("tests/fleet/agent/test_agent.py",),
    ),
    KnownFault(
        name="a shutdown waits for the control server",
        commit="55448c1",
        what="A system that shuts down is held up for a control server that cannot be reached.",
        module="fleet/agent/shutdown_watch.py",
        old="self._timing.goodbye_timeout_s if self._host.is_connected else 0",
        new="self._timing.goodbye_timeout_s",
        tests=("tests/fleet/agent/test_agent_shutdown.py",),
    ),
    KnownFault(
        name="a shutdown is claimed without proof",
        commit="170aa3a",
        what="A machine is shown as shut down although its agent could not tell whether the system goes down.",
        module="fleet/agent/shutdown_watch.py",
        old="            shutdown = None\n        if shutdown is not None:\n",
        new="            shutdown = None if accepted is None else SystemShutdown(accepted.action)\n"
        "        if shutdown is not None:\n",
        tests=("tests/fleet/agent/test_agent_shutdown.py",),
    ),
    KnownFault(
        name="no last look before the action",
        commit="0ec7513",
        what="A person who logs on just before an action that needed no consent loses unsaved work.",
        module="fleet/agent/executor.py",
        old="        if agreed.is_free and not facts.is_free:\n",
        new="        if False:\n",
        tests=("tests/fleet/agent/test_executor.py",),
    ),
    KnownFault(
        name="an order without effect is never settled",
        commit="40872ae",
        what="A restart that the system accepted and never began stays 'acting' and blocks all later orders.",
        module="fleet/agent/executor.py",
        old="        await self._wait_for_outcome(order, detail, timeout_s)\n",
        new="        await self._wait_for_shutdown(order, timeout_s)\n",
        tests=("tests/fleet/agent/test_executor.py",),
    ),
    KnownFault(
        name="a log off is believed",
        commit="3d56626",
        what="A log off by a command counts as done although the person is still logged on.",
        module="fleet/agent/power/command.py",
        old="            await self._wait_logged_off(logged_on)\n",
        new="            pass\n",
        tests=("tests/fleet/agent/power/test_command.py",),
    ),
    KnownFault(
        name="an old countdown counts",
        commit="dd16f88",
        what="When asking becomes impossible, the machine acts at once instead of after the full countdown.",
        module="fleet/agent/consent.py",
        old="    acts_at = max(terms.due_at, (now if since is None else since) + terms.countdown_s)\n",
        new="    acts_at = terms.due_at\n",
        tests=("tests/fleet/agent/test_consent.py",),
    ),
    KnownFault(
        name="the agent follows a link",
        commit="3b786fa",
        what="Another user makes an agent of root overwrite any file, with a link in its data directory.",
        module="fleet/private_files.py",
        old="flags | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE, dir_fd=directory)",
        new="flags | os.O_CLOEXEC, _MODE, dir_fd=directory)",
        tests=("tests/fleet/test_private_files.py",),
    ),
    # Command line
    KnownFault(
        name="a change is not repeated",
        commit="859db9d",
        what="A command reports that a job was not accepted although only the answer was lost.",
        module="cli/retry.py",
        old="                if not may_have_arrived and not error.may_have_arrived:\n",
        new="                if True:\n",
        tests=("tests/cli/test_api_client.py",),
    ),
    KnownFault(
        name="an impostor on the control socket",
        commit="44e8f58",
        what="Another user's program answers 'done' to an operator's command, and gets the token.",
        module="cli/socket_owner.py",
        old="    if user not in trusted:\n",
        new="    if False:\n",
        tests=("tests/cli/test_socket_owner.py",),
    ),
)

SAFEGUARDS: Final = (
    KnownFault(
        name="without duplicate suppression",
        ablation="duplicate suppression",
        what="After a reconnect, messages are handled twice.",
        module="session/inbound.py",
        old="        self.duplicates_dropped += 1\n",
        new="        return False\n",
        tests=("tests/session",),
    ),
    KnownFault(
        name="without the epoch fence",
        ablation="epoch fence",
        what="Bytes of an older connection arrive in the middle of those of the newer one.",
        module="line/driver.py",
        old="            old.close_replaced(self.host.closer, session)\n",
        new="            pass\n",
        tests=("tests/line/test_link.py",),
    ),
    KnownFault(
        name="without the journal before the action",
        ablation="journal before acting",
        what="A machine restarts again when its agent was ended by the restart itself.",
        module="fleet/agent/executor.py",
        old="            self._record_in_journal(order, ExecutionState.ACTING)\n",
        new="            pass\n",
        tests=("tests/fleet/agent/test_executor.py",),
    ),
    KnownFault(
        name="without expiry at the claim",
        ablation="expiry",
        what="A job begins hours after the operator's time limit.",
        module="fleet/control/jobs.py",
        old='        return Grant(False, "it began in an earlier boot of the machine"), ()\n    accepted',
        new='        return Grant(False, "it began in an earlier boot of the machine"), ()\n'
        "    execution = msgspec.structs.replace(execution, expires_at=execution.expires_at + 1e6)\n    accepted",
        tests=("tests/fleet/control/test_jobs.py",),
    ),
    KnownFault(
        name="without expiry of what did not start",
        ablation="expiry",
        what="A job that never reached its machine stays open without limit, and is done when the machine is back.",
        module="fleet/control/jobs.py",
        old="    if now < execution.expires_at:\n        return None\n",
        new="    if execution.state is not ExecutionState.ACTING:\n        return None\n",
        tests=("tests/fleet/control/test_jobs.py",),
    ),
    KnownFault(
        name="without expiry on a join",
        ablation="expiry",
        what="A machine that returns after the time limit of a job still gets it.",
        module="fleet/control/reconciliation.py",
        old="        if now >= execution.expires_at:\n",
        new="        if False:\n",
        tests=("tests/fleet/control/test_jobs.py",),
    ),
    KnownFault(
        name="without the end of the line",
        ablation="end of the line",
        what="A shutdown counts as done as soon as the machine says goodbye, although it can still be cancelled.",
        module="fleet/control/presence.py",
        old="    return presence.gone_at is not None and now - presence.gone_at >= grace_s\n",
        new="    return bool(presence.execution_id)\n",
        tests=("tests/fleet/control/test_presence.py",),
    ),
    KnownFault(
        name="without the probe of the older line",
        ablation="probe of the older line",
        what="Two machines with one identity replace each other, and each gets the orders of the other.",
        module="fleet/control/cloned_identities.py",
        old="                if await _answers(older, self._probe_timeout_s):\n",
        new="                if False:\n",
        tests=("tests/fleet/control/test_clones.py",),
    ),
    KnownFault(
        name="without the acknowledgement check",
        ablation="acknowledgement check",
        what="Messages that were never sent are forgotten, because the peer acknowledged them.",
        module="session/replay.py",
        old="        count = acked - self.acked\n",
        new="        acked = min(acked, self.acked + self.written)\n        count = acked - self.acked\n",
        tests=("tests/session",),
    ),
    KnownFault(
        name="without the record before the grant",
        ablation="record before granting",
        what="After a crash of the control server a machine has acted, and no record says that it was allowed to.",
        module="fleet/control/job_store.py",
        old="        await self._writes.run(self._write(executions))\n",
        new="        self._writing = asyncio.get_running_loop().create_task(self._write(executions))\n",
        tests=("tests/fleet/control/test_job_store.py",),
    ),
    KnownFault(
        name="without consent",
        ablation="consent",
        what="A machine acts at once where a person is logged on and cannot be asked.",
        module="fleet/agent/consent.py",
        old='        return Hold(f"{who} cannot be asked: {why}", is_asking_impossible=True)\n',
        new='        return Act(f"{who} cannot be asked: {why}")\n',
        tests=("tests/fleet/agent/test_consent.py",),
    ),
    KnownFault(
        name="without knowing that nobody is on",
        ablation="knowing that nobody is on",
        what="A machine that cannot list its persons acts at once, as if none were logged on.",
        module="fleet/model.py",
        old="        return self.knows_persons and not self.persons\n",
        new="        return not self.persons\n",
        tests=("tests/fleet/test_model.py", "tests/fleet/agent/test_consent.py"),
    ),
    KnownFault(
        name="without the limit of the send buffer",
        ablation="send buffer limit",
        what="A sender that is faster than its peer fills the memory.",
        module="session/outbound.py",
        old="        if messages == 0:\n            return True\n",
        new="        return True\n",
        tests=("tests/session",),
    ),
    KnownFault(
        name="without the deadline of the heartbeat",
        ablation="heartbeat deadline",
        what="A peer whose network vanished counts as connected for an hour.",
        module="session/heartbeat.py",
        old="        return max(self.last_received_at + self._interval_s + self._timeout_s, self._excused_until)\n",
        # Not infinite: a test that never ends finds it too, but only at its time limit.
        new="        return max(self.last_received_at + self._interval_s + 3600.0, self._excused_until)\n",
        tests=("tests/session/test_heartbeat.py",),
    ),
    KnownFault(
        name="without jitter",
        ablation="jitter",
        what="All clients of a server that was restarted come back in the same second.",
        module="client/backoff.py",
        old="        return random.random() * ceiling\n",
        new="        return ceiling\n",
        tests=("tests/client/test_backoff.py",),
    ),
)

KNOWN_FAULTS: Final = FROM_HISTORY + SAFEGUARDS
