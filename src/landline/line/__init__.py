"""The public Line over one session, and what it is made of."""
