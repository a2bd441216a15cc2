"""Dagster wiring: partitions, resources, thin assets, checks, jobs, schedules and sensors. Domain work is in the rooms below."""
