"""Dagster wiring: partitions, resources, thin assets, checks, jobs, schedule, sensors. The work is in the rooms below."""
