"""The control server: decisions, storage, machines, jobs."""
