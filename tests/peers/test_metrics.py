"""The parser of Prometheus' own client library reads what both services serve."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pair import Pair


def test_the_metrics_of_both_services_are_valid_openmetrics(pair: Pair, workspace: str) -> None:
    pair.put_secret(workspace, "TOKEN", "value-of-no-consequence")
    # Nobody listens on port 1.
    pair.add_server(workspace, "gone", "http://127.0.0.1:1", ["TOKEN"])
    try:
        urllib.request.urlopen(f"http://{pair.data_plane}/{workspace}/gone/", timeout=10)
    except urllib.error.HTTPError as refused:
        assert refused.code == 502
    ports = json.loads((pair.folder / "ports.json").read_text())
    for service, least in (("vault", 20), ("injector", 15)):
        address = ports[f"{service}_metrics"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            assert answer.headers["content-type"].startswith("application/openmetrics-text")
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
        assert len(families) >= least, sorted(families)
        assert all(family.documentation for family in families.values())
        buckets = families["grpc_server_handling_seconds"].samples
        assert any(sample.name.endswith("_bucket") and sample.value > 0 for sample in buckets)
