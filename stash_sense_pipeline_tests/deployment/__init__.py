"""Tests of deployment: how the services start, and where runs are executed."""
