"""Run launcher for processes on this machine; notices killed runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus

# As long as run monitoring gives a run to start; a process reports within a second of its start.
REPORTS_WITHIN_SECONDS = 300.0


_SECONDS_OF_CLOCKS = 2.0


class WatchedRunLauncher(DefaultRunLauncher):
    """Runs as processes of this machine, as Dagster does by default, but one that was killed is noticed.

    Without a look at its process a run whose code server or worker was killed would stay STARTED for ever.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring asks check_run_worker_health."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """RUNNING while the process that reported its start is there, else NOT_FOUND.

        A run that reports no process within 300 s of its start was killed before it could.
        """
        if not Path("/proc/stat").exists():
            return CheckRunHealthResult(WorkerStatus.RUNNING, msg="This system does not show its processes.")
        events = self._instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
        for event in reversed(list(events)):
            metadata = event.get_dagster_event().engine_event_data.metadata
            if "pid" not in metadata:
                continue
            pid = int(str(metadata["pid"].value))
            started = _process_started(pid)
            if started is not None and started <= event.timestamp + _SECONDS_OF_CLOCKS:
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
    """When a process of this machine began, in seconds of the epoch; None when there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] == "Z":
        return None
    boot_time = float(boot.partition("btime ")[2].split()[0])
    return boot_time + float(fields[19]) / os.sysconf("SC_CLK_TCK")
