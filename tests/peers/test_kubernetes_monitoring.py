"""The alerts and the dashboard of the chart."""

from __future__ import annotations

import json
import re

import yaml

from cluster import CHART, one, rendered_with
from pair import REPOSITORY


def documented_metrics() -> set[str]:
    return set(re.findall(r"^\| `([a-z_]+)` \|", (REPOSITORY / "docs" / "metrics.md").read_text(), re.MULTILINE))


def used_metrics(expression: str) -> set[str]:
    names = re.findall(r"\b(?:aerostack|grpc_server|process)_[a-z_]+", expression)
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}


def test_every_alert_and_every_panel_uses_metrics_that_exist() -> None:
    objects = rendered_with(CHART / "ci" / "monitoring-values.yaml")
    (rule_group,) = one(objects, "PrometheusRule", "aerostack")["spec"]["groups"]
    expressions = [rule["expr"] for rule in rule_group["rules"]]
    dashboard = json.loads(one(objects, "ConfigMap", "aerostack-dashboard")["data"]["aerostack.json"])
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    expressions += [target["expr"] for panel in panels for target in panel["targets"]]
    expressions += [each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    assert len(panels) > 15
    for expression in expressions:
        assert used_metrics(expression) and used_metrics(expression) <= documented_metrics(), expression
        assert expression.count("(") == expression.count(")"), expression


def test_panels_do_not_overlap() -> None:
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24


def test_the_alerts_of_metrics_md_are_in_the_chart() -> None:
    (group,) = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    names = {rule["alert"] for rule in group["rules"]}
    listed = re.findall(r"- alert: (\w+)", (REPOSITORY / "docs" / "metrics.md").read_text())
    assert listed and {f"Aerostack{name.removeprefix('Aerostack')}" for name in listed} <= names
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning") and rule["annotations"]["summary"]
