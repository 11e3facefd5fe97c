"""What lines share on one event loop: timers, batched writes, turns, guarded logging."""
