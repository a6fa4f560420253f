"""The dashboard as code. ``python deploy/grafana/dashboard.py`` writes ``dashboards/semlink.json``.

Three questions from top to bottom: what traffic is there, where does its time go, how good are the links.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef

OUT = Path(__file__).parent / "dashboards" / "semlink.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")


@dataclass(frozen=True, slots=True)
class Chart:
    """One panel: title, unit and the lines in it (legend, PromQL)."""

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    span: int = 8


def _quantiles(metric: str, by: str = "") -> tuple[tuple[str, str], ...]:
    group = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    return tuple(
        (
            f"{legend}p{round(100 * q)}",
            f"histogram_quantile({q}, sum by ({group}) (rate({metric}_bucket[1m])))",
        )
        for q in (0.5, 0.99)
    )


def _median(metric: str) -> str:
    # no mean: a histogram of values that may be negative has no `_sum`
    return f"histogram_quantile(0.5, sum by (le) (rate({metric}_bucket[1m])))"


ROWS: tuple[tuple[str, tuple[Chart, ...]], ...] = (
    (
        "Traffic",
        (
            Chart(
                "Requests",
                "reqps",
                (
                    (
                        "{{service}} {{outcome}}",
                        "sum by (service, outcome) (rate(semlink_requests_total[1m]))",
                    ),
                ),
            ),
            Chart(
                "In flight and queued",
                "short",
                (
                    ("{{service}} in flight", "sum by (service) (semlink_requests_in_flight)"),
                    ("{{batcher}} queued", "sum by (batcher) (semlink_queue_depth)"),
                ),
            ),
            Chart(
                "Batch size (mean)",
                "short",
                (
                    (
                        "{{batcher}}",
                        "sum by (batcher) (rate(semlink_batch_size_sum[1m])) "
                        "/ sum by (batcher) (rate(semlink_batch_size_count[1m]))",
                    ),
                ),
            ),
            Chart(
                "Degraded answers and corrupted messages",
                "ops",
                (
                    ("{{part}}", "sum by (part) (rate(semlink_degraded_total[5m])) or vector(0)"),
                    ("corrupted", "sum(rate(semlink_crc_rejected_total[5m])) or vector(0)"),
                ),
                12,
            ),
            Chart(
                "Memory",
                "bytes",
                (("{{service}}", "sum by (service) (process_resident_memory_bytes)"),),
                12,
            ),
        ),
    ),
    (
        "Latency",
        (
            Chart("Calls, p50 and p99", "s", _quantiles("semlink_request_seconds", "service"), 12),
            Chart(
                "Steps, mean",
                "s",
                (
                    (
                        "{{service}}.{{step}}",
                        "sum by (service, step) (rate(semlink_step_seconds_sum[1m])) "
                        "/ sum by (service, step) (rate(semlink_step_seconds_count[1m]))",
                    ),
                ),
                12,
            ),
        ),
    ),
    (
        "Links",
        (
            Chart(
                "SNR before and after (median)",
                "dB",
                (
                    ("SNR of the link", _median("semlink_link_snr_db")),
                    ("after equalising", _median("semlink_post_eq_snr_db")),
                ),
            ),
            Chart(
                "Feedback bits a report", "short", (("median", _median("semlink_feedback_bits")),)
            ),
            Chart(
                "Error of the precoder's CSI (NMSE)",
                "dB",
                (("median", _median("semlink_csi_nmse_db")),),
            ),
        ),
    ),
)


def dashboard() -> Dashboard:
    """The whole dashboard."""
    board = (
        Dashboard("semlink")
        .uid("semlink")
        .tags(["semlink"])
        .refresh("5s")
        .time("now-15m", "now")
        .readonly()
    )
    for title, charts in ROWS:
        board = board.with_row(Row(title))
        for chart in charts:
            board = board.with_panel(_panel(chart))
    return board


def _panel(chart: Chart) -> Panel:
    panel = (
        Panel()
        .title(chart.title)
        .unit(chart.unit)
        .datasource(SOURCE)
        .span(chart.span)
        .height(8)
        .fill_opacity(8)
        .legend(
            VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    for number, (legend, expression) in enumerate(chart.lines):
        # the SDK leaves refId empty; Grafana drops all but one of such queries
        target = Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + number))
        panel = panel.with_target(target)
    return panel


def render() -> str:
    """The JSON that Grafana is provisioned with."""
    return json.dumps(dashboard().build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    OUT.write_text(render())
