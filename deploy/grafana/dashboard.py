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
from grafana_foundation_sdk.models.dashboard import AnnotationQuery, DataSourceRef

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


def _rate(metric: str, by: str = "", window: str = "1m") -> str:
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}[{window}]))"


def _mean(metric: str, by: str) -> str:
    return f"{_rate(f'{metric}_sum', by)} / {_rate(f'{metric}_count', by)}"


IN_FLIGHT = ("{{service}} in flight", "sum by (service) (semlink_requests_in_flight)")
QUEUED = ("{{batcher}} queued", "sum by (batcher) (semlink_queue_depth)")
DEGRADED = ("{{part}}", f"{_rate('semlink_degraded_total', 'part', '5m')} or vector(0)")
CORRUPTED = ("corrupted", f"{_rate('semlink_crc_rejected_total', window='5m')} or vector(0)")
REQUESTS = ("{{service}} {{outcome}}", _rate("semlink_requests_total", "service, outcome"))
MEMORY = ("{{service}}", "sum by (service) (process_resident_memory_bytes)")
BATCHES = ("{{batcher}}", _mean("semlink_batch_size", "batcher"))
STEPS = ("{{service}}.{{step}}", _mean("semlink_step_seconds", "service, step"))
CALLS = _quantiles("semlink_request_seconds", "service")
SNR = ("SNR of the link", _median("semlink_link_snr_db"))
POST_EQ_SNR = ("after equalising", _median("semlink_post_eq_snr_db"))

ROWS: dict[str, tuple[Chart, ...]] = {
    "Traffic": (
        Chart("Requests", "reqps", (REQUESTS,)),
        Chart("In flight and queued", "short", (IN_FLIGHT, QUEUED)),
        Chart("Batch size (mean)", "short", (BATCHES,)),
        Chart("Degraded answers and corrupted messages", "ops", (DEGRADED, CORRUPTED), 12),
        Chart("Memory", "bytes", (MEMORY,), 12),
    ),
    "Latency": (
        Chart("Calls, p50 and p99", "s", CALLS, 12),
        Chart("Steps, mean", "s", (STEPS,), 12),
    ),
    "Links": (
        Chart("SNR before and after (median)", "dB", (SNR, POST_EQ_SNR)),
        Chart("Feedback bits a report", "short", (("median", _median("semlink_feedback_bits")),)),
        Chart(
            "Error of the precoder's CSI (NMSE)",
            "dB",
            (("median", _median("semlink_csi_nmse_db")),),
        ),
    ),
}


def _load_run(parameter: str) -> str:
    # a parameter is the value of a gauge: `count_values` makes a label of it here, in the query
    return f'count_values("{parameter}", max(semlink_load_run{{parameter="{parameter}"}}))'


LOAD_RUNS = 'count_values("seconds", max(semlink_load_run{parameter="duration_s"}) > 0)' + "".join(
    f" * on() group_left({one}) {_load_run(one)}" for one in ("rate", "users", "queries_per_call")
)
"""One series while `semlink load` runs, none else: Grafana draws a region for as long as it is there."""


class LoadRunAnnotation(AnnotationQuery):
    """Marks load tests. The SDK does not know the fields by which Grafana's Prometheus source makes the text."""

    def __init__(self) -> None:
        super().__init__("Load tests", SOURCE, True, False, "orange", expr=LOAD_RUNS)

    def build(self) -> AnnotationQuery:
        """As the SDK's builders do."""
        return self

    def to_json(self) -> dict[str, object]:
        """With the further fields."""
        text = "{{rate}} calls/s or {{users}} users, {{queries_per_call}} queries a call, {{seconds}} s"
        return super().to_json() | {"titleFormat": "semlink load", "textFormat": text, "step": "5s"}


def dashboard() -> Dashboard:
    """The whole dashboard."""
    board = Dashboard("semlink").uid("semlink").tags(["semlink"]).refresh("5s").readonly()
    board = board.time("now-15m", "now").annotation(LoadRunAnnotation())
    for title, charts in ROWS.items():
        board = board.with_row(Row(title))
        for chart in charts:
            board = board.with_panel(_panel(chart))
    return board


def _panel(chart: Chart) -> Panel:
    legend_below = VizLegendOptions().placement(LegendPlacement.BOTTOM).show_legend(True)
    panel = Panel().title(chart.title).unit(chart.unit).datasource(SOURCE).span(chart.span)
    panel = panel.height(8).fill_opacity(8)
    panel = panel.legend(legend_below.display_mode(LegendDisplayMode.LIST))
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
