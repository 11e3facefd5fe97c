"""What runs on a machine: the agent, its journal, the power switch and the person's prompt."""
