"""The dashboard as code. ``python deploy/grafana/dashboard.py`` writes ``dashboards/semlink.json``.

It tells a load test from top to bottom: how many queries come and how they end, where their time goes, what waits and
what is batched, what the links do to messages, what the knowledge base adds, and what all of it costs the machine.

Panels show exact rates and means, made of sums and counts. A quantile is interpolated inside a bucket, so only times
have some, and their descriptions say so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, QueryVariable, Row
from grafana_foundation_sdk.builders.heatmap import Panel as HeatmapPanel
from grafana_foundation_sdk.builders.heatmap import YAxisConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    AnnotationQuery,
    DataSourceRef,
    VariableOption,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

OUT = Path(__file__).parent / "dashboards" / "semlink.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")

QUERY = 'task=~"$task", method=~"$method"'
"""Labels of what the gateway counts; it does not know the scenario of an opened link."""
ANSWER = f'{QUERY}, scenario=~"$scenario"'
VARIABLES = {
    "task": "label_values(semlink_answers_total, task)",
    "method": "label_values(semlink_answers_total, method)",
    "scenario": "label_values(semlink_answers_total, scenario)",
}
"""Choices above the panels and where Grafana finds their values."""
ALL = VariableOption(text="All", value="$__all", selected=True)


@dataclass(frozen=True, slots=True)
class Chart:
    """A panel of lines (legend, PromQL): title, unit, description."""

    title: str
    unit: str
    description: str
    lines: tuple[tuple[str, str], ...]
    span: int = 8


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A panel of one histogram over time: each cell is how many observations one bucket got, nothing interpolated."""

    title: str
    description: str
    histogram: str
    labels: str
    span: int = 8

    @property
    def expression(self) -> str:
        """Observations of each bucket in the last 30 s."""
        return f"sum by (le) (increase({self.histogram}_bucket{{{self.labels}}}[30s]))"


def _rate(counter: str, by: str, labels: str = "") -> str:
    return f"sum by ({by}) (rate({counter}{{{labels}}}[1m]))"


def _or_zero(expression: str) -> str:
    """For what has no series before it first happens."""
    return f"{expression} or vector(0)"


def _mean(summary: str, by: str) -> str:
    return f"{_rate(f'{summary}_sum', by)} / {_rate(f'{summary}_count', by)}"


def _quantiles(histogram: str, labels: str) -> tuple[tuple[str, str], ...]:
    buckets = f"sum by (le) (rate({histogram}_bucket{{{labels}}}[1m]))"
    return tuple((f"p{100 * q:g}", f"histogram_quantile({q}, {buckets})") for q in (0.5, 0.9, 0.99))


def _figure(name: str) -> str:
    """Mean of a figure of links by method: recorded sums over recorded counts."""
    sums, counts = (
        f'sum by (method) (semlink:link_figure_{part}:rate1m{{figure="{name}", {ANSWER}}})'
        for part in ("sum", "count")
    )
    return f"{sums} / {counts}"


def _per_s(name: str) -> str:
    """A figure of links summed over the messages of a second, by method."""
    return f'sum by (method) (semlink:link_figure_sum:rate1m{{figure="{name}", {ANSWER}}})'


def _share(result: str) -> str:
    of_result = f'sum(rate(semlink_answers_total{{result="{result}", {ANSWER}}}[1m]))'
    return f"({of_result} or vector(0)) / sum(rate(semlink_answers_total{{{ANSWER}}}[1m]))"


def _step(service: str, step: str, description: str) -> HeatMap:
    labels = f'service="{service}", step="{step}"'
    return HeatMap(f"{service}: {step}", description, "semlink_step_seconds", labels, 6)


JOB = 'job="semlink"'
WAITED = "semlink_query_seconds"
RESULTS = ("{{result}}", _rate("semlink_queries_total", "result", QUERY))
BY_METHOD = ("{{task}} {{method}}", _rate("semlink_queries_total", "task, method", QUERY))
CALLS = ("{{service}} {{outcome}}", _rate("semlink_requests_total", "service, outcome"))
MEAN_WAIT = (
    "mean",
    f"sum(rate({WAITED}_sum{{{QUERY}}}[1m])) / sum(rate({WAITED}_count{{{QUERY}}}[1m]))",
)
CPU_MS = (
    "{{service}}",
    f"1000 * {_rate('process_cpu_seconds_total', 'service', JOB)}"
    " / on() group_left() sum(rate(semlink_queries_total[1m]))",
)

ROWS: dict[str, tuple[Chart | HeatMap, ...]] = {
    "Traffic": (
        Chart(
            "Queries by result",
            "qps",
            "Queries that ended in a second, as the gateway answered them: ok, degraded (a service went without "
            "something), erased (by the channel), Overloaded (refused at once, 429) or another error. Each query of a "
            "batch counts. By task and method, not by scenario.",
            (RESULTS,),
        ),
        Chart(
            "Queries by method",
            "qps",
            "The same by task and method; names that are no task or method of this system are counted as other.",
            (BY_METHOD,),
        ),
        Chart(
            "Shares of answers",
            "percentunit",
            "Of the queries that the transmitter answered: the share degraded, and the share whose digital message the "
            "channel destroyed. By task, method and scenario.",
            (("degraded", _share("degraded")), ("erased", _share("erased"))),
        ),
        Chart(
            "Calls",
            "reqps",
            "Calls of every service and requests of the gateway, without those of probes and of Prometheus.",
            (CALLS,),
        ),
        Chart(
            "Fallbacks",
            "ops",
            "What services went without in a second, by part; each is named in the answer as degraded.",
            (("{{part}}", _or_zero(_rate("semlink_degraded_total", "part"))),),
        ),
        Chart(
            "Rejected frames and reports",
            "ops",
            "Messages refused because a checksum was wrong (software, not the emulated channel), and CSI reports "
            "refused or not made, by the field at fault.",
            (
                ("corrupted", _or_zero("sum(rate(semlink_crc_rejected_total[1m]))")),
                (
                    "report: {{field}}",
                    _or_zero(_rate("semlink_csi_reports_rejected_total", "field")),
                ),
            ),
        ),
    ),
    "Latency": (
        HeatMap(
            "Time that clients waited",
            "From a query's arrival at the gateway to its answer: how many answers of the last 30 s fell into each "
            "range. By task and method.",
            WAITED,
            QUERY,
            12,
        ),
        Chart(
            "Time that clients waited: mean and quantiles",
            "s",
            "The mean is exact. Quantiles are interpolated between the bounds of the ranges beside and are right to "
            "one range.",
            (MEAN_WAIT, *_quantiles(WAITED, QUERY)),
            12,
        ),
        _step("transmitter", "encode", "Encoding of one batch of texts, pictures or sounds."),
        _step("transmitter", "frame", "Codec and precoder of one batch of messages."),
        _step(
            "transmitter", "link", "From sending one batch until the receiver's answers are back."
        ),
        _step("channel", "grant", "Slots granted and the reports due by then made, a call each."),
        _step("channel", "air", "One batch of frames through channel, noise and figures."),
        _step("receiver", "decode", "Equalising and decoding of one batch."),
        _step("receiver", "search", "Search of one batch in the gallery."),
        _step("knowledge", "generate", "One batch of captions rewritten by the LLM."),
        Chart(
            "Mean time of every step",
            "s",
            "Of each step of each service, a batch counted once. Exact.",
            (("{{service}}.{{step}}", "semlink:step_seconds:mean1m"),),
            24,
        ),
    ),
    "Batching and queues": (
        Chart(
            "Queued",
            "short",
            "Items that wait in a micro-batcher now: queries in gateway.queries, captions in knowledge.rewrite.",
            (("{{batcher}}", "sum by (batcher) (semlink_queue_depth)"),),
        ),
        Chart(
            "Batch size",
            "short",
            "Mean number of items that ran at once. Exact. It grows with the load; 1 is an idle system.",
            (("{{batcher}}", _mean("semlink_batch_size", "batcher")),),
        ),
        Chart(
            "In flight",
            "short",
            "Calls begun and not ended, by service.",
            (("{{service}}", "sum by (service) (semlink_requests_in_flight)"),),
        ),
    ),
    "Link quality": (
        Chart(
            "SNR",
            "dB",
            "Mean over messages, in dB: of the link as it was asked for, and of the symbols after equalising "
            "(geometric mean of their SINR). Exact.",
            (
                ("{{method}} link", _figure("snr_db")),
                ("{{method}} after equalising", _figure("post_eq_snr_db")),
            ),
        ),
        Chart(
            "SGCS of the precoder's CSI",
            "short",
            "Squared generalised cosine similarity of the CSI that the precoder used and the true channel, mean over "
            "the messages that had any. 1 is perfect. Exact.",
            (("{{method}}", _figure("csi_sgcs")),),
        ),
        Chart(
            "NMSE of the precoder's CSI",
            "dB",
            "The mean of the messages' normalised squared errors, in dB. Exact.",
            (("{{method}}", f"10 * log10({_figure('csi_nmse')})"),),
        ),
        Chart(
            "Feedback bits a report",
            "short",
            "Mean over messages of the bits of one CSI report of their link. Exact: links of 64 bits show 64.",
            (("{{method}}", _figure("feedback_bits")),),
            6,
        ),
        Chart(
            "Feedback bits/s",
            "short",
            "Bits of one report for every message, summed over the messages of a second. A link reports at its period "
            "whether a message is sent or not: this is the feedback that answers rest on, not the air's load.",
            (("{{method}}", _per_s("feedback_bits")),),
            6,
        ),
        Chart(
            "Symbols/s",
            "short",
            "Complex channel uses of the messages of a second.",
            (("{{method}}", _per_s("channel_uses")),),
            6,
        ),
        Chart(
            "Age of the CSI, slots of 1 ms",
            "short",
            "Mean age of the newest report that a message could use. Exact.",
            (("{{method}}", _figure("csi_age_slots")),),
            6,
        ),
    ),
    "Knowledge": (
        Chart(
            "Captions asked for",
            "ops",
            "Captions whose rewrites were asked for in a second: found stored, generated while the query waited, or "
            "none in time. Not by task or method: the knowledge base sees texts alone.",
            (("{{source}}", _or_zero(_rate("semlink_rewrite_sets_total", "source"))),),
        ),
        Chart(
            "Cache hits",
            "percentunit",
            "Share of those captions that were stored already.",
            (("stored", _or_zero("semlink:rewrites_stored:share1m")),),
        ),
        Chart(
            "Rewrites kept and dropped",
            "ops",
            "Rewrites that were answered in a second, by verdict: kept, duplicate (in the caption's words), dropped by "
            "the filter.",
            (("{{verdict}}", _or_zero(_rate("semlink_rewrites_judged_total", "verdict"))),),
        ),
        Chart(
            "LLM tokens/s",
            "short",
            "Tokens that the LLM generated, counted when a sample ends. An endpoint elsewhere counts if it says how "
            "many it generated.",
            (("tokens", "sum(rate(semlink_llm_tokens_total[1m]))"),),
            12,
        ),
        Chart(
            "Failures of LLM and store",
            "ops",
            "Batches of captions that the LLM failed to rewrite, and accesses to the store that failed or were not "
            "tried while it is away.",
            (
                ("LLM", "sum(rate(semlink_llm_failures_total[1m]))"),
                ("store, {{service}}", _rate("semlink_store_failures_total", "service")),
            ),
            12,
        ),
    ),
    "Resources": (
        Chart(
            "Processor",
            "short",
            "Cores that each service keeps busy.",
            (("{{service}}", _rate("process_cpu_seconds_total", "service", JOB)),),
        ),
        Chart(
            "Processor time a query",
            "ms",
            "The same over the queries that ended in a second, refused ones too. What services do besides (rewrites in "
            "the background, probes) is in it.",
            (CPU_MS,),
        ),
        Chart(
            "Memory",
            "bytes",
            "Resident memory of each service's process.",
            (
                (
                    "{{service}}",
                    f"sum by (service) (process_resident_memory_bytes{{{JOB}}})",
                ),
            ),
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
    for name, values in VARIABLES.items():
        variable = QueryVariable(name).label(name).datasource(SOURCE).query(values)
        variable = variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).multi(True)
        board = board.with_variable(variable.include_all(True).all_value(".*").current(ALL))
    for title, charts in ROWS.items():
        board = board.with_row(Row(title))
        for chart in charts:
            board = board.with_panel(
                _heat_map(chart) if isinstance(chart, HeatMap) else _lines(chart)
            )
    return board


def _lines(chart: Chart) -> Panel:
    legend_below = VizLegendOptions().placement(LegendPlacement.BOTTOM).show_legend(True)
    panel = Panel().title(chart.title).unit(chart.unit).datasource(SOURCE).span(chart.span)
    panel = panel.description(chart.description).height(8).fill_opacity(8)
    panel = panel.legend(legend_below.display_mode(LegendDisplayMode.LIST))
    for number, (legend, expression) in enumerate(chart.lines):
        # the SDK leaves refId empty; Grafana drops all but one of such queries
        target = Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + number))
        panel = panel.with_target(target)
    return panel


def _heat_map(chart: HeatMap) -> HeatmapPanel:
    panel = HeatmapPanel().title(chart.title).datasource(SOURCE).span(chart.span).height(8)
    panel = panel.description(chart.description).calculate(False).y_axis(YAxisConfig().unit("s"))
    buckets = Dataquery().expr(chart.expression).legend_format("{{le}}").ref_id("A")
    return panel.with_target(buckets.format(PromQueryFormat.HEATMAP))


def render() -> str:
    """The JSON that Grafana is provisioned with."""
    return json.dumps(dashboard().build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    OUT.write_text(render())
