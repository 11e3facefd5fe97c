"""What runs on a machine: the agent, its journal, the power back end and the person's prompt."""
