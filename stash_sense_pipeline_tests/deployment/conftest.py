"""Fixtures that tests of deployment share with those of orchestration."""

from __future__ import annotations

from stash_sense_pipeline_tests.orchestration.conftest import definitions, settings

__all__ = ["definitions", "settings"]
