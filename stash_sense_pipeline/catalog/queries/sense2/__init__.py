"""Queries of the permanent numbers of sense2 releases."""
