"""Run launcher for processes on this machine; notices killed runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import dagster as dg

from stash_sense_pipeline.orchestration.dagster_private import CheckRunHealthResult, WorkerStatus

# Run monitoring gives a run as long to start; a process reports within a second of its start.
REPORTS_WITHIN_SECONDS = 300.0
# The start time of a process and the time of an event come from different clocks.
_CLOCK_TOLERANCE_SECONDS = 2.0


class WatchedRunLauncher(dg.DefaultRunLauncher):
    """Dagster's default run launcher, with a health check: run monitoring notices a killed process of a run.

    Dagster's own has none: when the code server or a worker is killed, its runs would stay STARTED for ever.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True: run monitoring calls check_run_worker_health."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """RUNNING while the process that reported its start exists, else NOT_FOUND.

        A run that reports no process within 300 s of its start was killed before it could report.
        """
        if not Path("/proc/stat").exists():
            return CheckRunHealthResult(WorkerStatus.RUNNING, msg="Without /proc no process can be checked.")
        events = self._instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
        for event in reversed(list(events)):
            metadata = event.get_dagster_event().engine_event_data.metadata
            if "pid" not in metadata:
                continue
            pid = int(str(metadata["pid"].value))
            started = _process_started(pid)
            if started is not None and started <= event.timestamp + _CLOCK_TOLERANCE_SECONDS:
                return CheckRunHealthResult(WorkerStatus.RUNNING)
            return CheckRunHealthResult(
                WorkerStatus.NOT_FOUND, msg=f"The process {pid} of the run was killed."
            )
        record = self._instance.get_run_record_by_id(run.run_id)
        if (
            record is not None
            and record.start_time
            and time.time() - record.start_time > REPORTS_WITHIN_SECONDS
        ):
            return CheckRunHealthResult(
                WorkerStatus.NOT_FOUND, msg="The run was killed before its process had reported its number."
            )
        return CheckRunHealthResult(WorkerStatus.RUNNING, msg="The process of the run has not reported yet.")


def _process_started(pid: int) -> float | None:
    """The start time of a process in seconds since the epoch; None when it does not exist or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] == "Z":
        return None
    boot_time = float(boot.partition("btime ")[2].split()[0])
    return boot_time + float(fields[19]) / os.sysconf("SC_CLK_TCK")
