"""Processes of their own for the tests of faces: a fork server loads their modules once."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

from stash_sense_pipeline_tests.faces import crash_child, embedding_child


def process_context() -> ForkServerContext:
    """What starts processes that run `crash_child.work` or `embedding_child.work`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([crash_child.__name__, embedding_child.__name__])
    return context
