"""Shared services of one event loop: timers, batched writes, turns, guarded logging."""
