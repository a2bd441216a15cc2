"""Builds from the command line: runs in child processes, their order, their progress, their summary."""
