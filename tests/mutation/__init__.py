"""Measures the tests: puts small faults into the code, one at a time, and counts those that no test finds."""
