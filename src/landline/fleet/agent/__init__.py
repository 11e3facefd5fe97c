"""The program on each machine: the agent, its executor and journal, the power back ends and the prompts."""
