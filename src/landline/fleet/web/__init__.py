"""The HTTP API of the control server: what it publishes and how it is served."""
