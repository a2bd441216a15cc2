"""Benchmarks: each module measures one room and yields rows; `make bench` prints them as one table."""
