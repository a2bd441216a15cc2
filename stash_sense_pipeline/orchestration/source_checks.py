"""The verdicts of the checks of each source: the newest result of each partition of a partitioned check."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg


@dataclass(frozen=True)
class SourceCheck:
    """The newest result of one check for one source; `passed` is None while it is not known."""

    source: str
    check: dg.AssetCheckKey
    passed: bool | None

    @property
    def name(self) -> str:
        """`<source>: <asset>/<check>`."""
        return f"{self.source}: {self.check.asset_key.to_user_string()}/{self.check.name}"


def source_checks(instance: dg.DagsterInstance, repository: dg.RepositoryDefinition) -> list[SourceCheck]:
    """The results of all checks that have partitions, of the sources that have a partition now."""
    graph = repository.asset_graph
    found = []
    for key in sorted(graph.asset_check_keys, key=str):
        partitions = graph.get(key).partitions_def
        if partitions is None:
            continue
        sources = partitions.get_partition_keys()
        for info in instance.event_log_storage.get_asset_check_partition_info([key]):
            if info.partition_key in sources:
                status = info.latest_execution_status.value
                passed = {"SUCCEEDED": True, "FAILED": False}.get(status)
                found.append(SourceCheck(str(info.partition_key), key, passed))
    return found
