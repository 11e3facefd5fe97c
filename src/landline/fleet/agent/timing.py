"""The agent's intervals and time-outs, all in seconds."""

from __future__ import annotations

import msgspec

from landline.fleet.messages import DEFAULT_COUNTDOWN_S


class AgentTiming(msgspec.Struct, frozen=True, kw_only=True):
    """Intervals and time-outs of one agent; the defaults are those of a real machine."""

    # Connection

    control_retry_s: float = 2.0
    """Pause before a request is repeated that the control server could not record."""
    clone_retry_s: float = 60.0
    """Pause before the agent joins again while another machine with the same identity is connected."""
    persons_poll_s: float = 15.0
    """Interval at which the agent lists the persons who are logged on."""
    boot_record_s: float = 60.0
    """Interval at which the uptime is recorded. A restart before the first time may not be provable."""

    # Asking persons

    waiting_poll_s: float = 3.0
    """Interval at which a waiting order checks who is logged on, and whether a person can be asked."""
    prompt_retry_first_s: float = 15.0
    """Pause before a question is shown again after it failed. Doubled with each failure up to
    :attr:`prompt_retry_cap_s`, so that a job that is valid for days does not fill the record."""
    prompt_retry_cap_s: float = 600.0
    postponed_countdown_s: float = DEFAULT_COUNTDOWN_S
    """Time to answer the question that is shown at the end of a postponement."""
    refused_postponement_s: float = 15.0
    """Least time to answer after a postponement was refused: enough to read the question again."""
    notices_timeout_s: float = 10.0
    """Time-out for sending notices, so that they delay nothing for longer."""

    # Shutdown

    shutdown_start_timeout_s: float = 120.0
    """Time in which a restart or shutdown that the system accepted must be announced. No other action begins in this
    time. Afterwards the outcome is unknown, as always with the back end ``command``, which announces nothing: the next
    boot settles it."""
    uncertain_timeout_s: float = 20.0
    """The same for a restart or shutdown for which the system gave no answer."""
    goodbye_timeout_s: float = 3.0
    """Time-out for the goodbye: a system that shuts down does not wait long (logind: 5 s)."""
    power_retry_first_s: float = 1.0
    """Pause before the power back end is opened again after it failed. A restart of the system's bus takes a second or
    two, so the first pause is short. Each pause is twice the one before, up to :attr:`power_retry_cap_s`."""
    power_retry_cap_s: float = 30.0
