"""Redaction: names, ids and secrets removed from logs, reports and the operator's files."""
