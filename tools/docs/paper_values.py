"""Every figure that the four papers give in numbers, with its place, and where ours of the same thing is found.

Shares are in percent, as the papers print them. Where the papers only draw a curve there is nothing to set beside ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from lab.evaluation.report import Row, pick
from lab.experiments.tables import cell

Ours = Callable[[Sequence[Row]], str | None]
"""Our figure as the page shows it, of the rows of all reports; None where it is not measured."""


class Reports(list[Row]):
    """Rows of several reports, each once; ``reports`` knows whose they are.

    Methods of one report answered the same queries on the same channels. Rows of two reports at the same coordinates
    may come from samples of other sizes: they are not set against each other.
    """

    def __init__(self, reports: Sequence[Sequence[Row]]) -> None:
        # Reports share points (the ideal link, perfect CSI).
        super().__init__(dict.fromkeys(row for rows in reports for row in rows))
        self.reports = reports


def by_report(rows: Sequence[Row]) -> Sequence[Sequence[Row]]:
    """The rows of each report; of plain rows, all as those of one."""
    return rows.reports if isinstance(rows, Reports) else [rows]


@dataclass(frozen=True, slots=True)
class Reported:
    """A figure of a paper: its place there, what it is of, how it is printed, and ours.

    ``ours`` is None for what we cannot measure: a data set or an encoder that is not here.
    """

    where: str
    what: str
    figure: str
    ours: Ours | None = None


@dataclass(frozen=True, slots=True)
class Paper:
    """A paper, how its setting differs from ours, said once, and its figures."""

    title: str
    setting: str
    reported: Sequence[Reported]


def _first(rows: Sequence[Row], **coordinates: object) -> Row | None:
    return next(iter(pick(rows, **coordinates)), None)


def _ranks(method: str, variant: str | None, task: str) -> Ours:
    """R@1 / 5 / 10 of one row of a table."""

    def ours(rows: Sequence[Row]) -> str | None:
        at = {"method": method, "variant": variant, "task": task, "split": "test"}
        found = [_first(rows, metric=f"r_at_{k}", **at) for k in (1, 5, 10)]
        cells = [f"{100 * row.mean:.1f}" for row in found if row is not None]
        return " / ".join(cells) if len(cells) == len(found) else None

    return ours


def _mean(metric: str, method: str | None, variant: str) -> Ours:
    def ours(rows: Sequence[Row]) -> str | None:
        row = _first(rows, metric=metric, method=method, variant=variant, split="test")
        return None if row is None else cell(row, percent=True)

    return ours


def _difference(metric: str, variant: str) -> Ours:
    """A difference or relative gain with its interval."""

    def ours(rows: Sequence[Row]) -> str | None:
        row = _first(rows, metric=metric, variant=variant)
        if row is None:
            return None
        low, high = row.ci95 or (row.mean, row.mean)
        return f"{100 * row.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"

    return ours


def relative_gains(rows: Sequence[Row], metric: str, rival: str) -> list[tuple[float, Row]]:
    """Relative gains of SC-LMKB over a rival, wherever one report measured both on the same test queries and links."""
    gains = [gain for report in by_report(rows) for gain in _gains(report, metric, rival)]
    # Figures share points: each counts once.
    return list(dict.fromkeys(gains))


def _gains(rows: Sequence[Row], metric: str, rival: str) -> list[tuple[float, Row]]:
    def place(row: Row) -> tuple[object, ...]:
        return (
            *(row.task, row.corpus, row.scenario, row.speed_kmh),
            *(row.snr_db, row.bits, row.symbols, row.variant),
        )

    by_place = {
        place(row): row
        for row in pick(rows, metric=metric, method=rival, quantizer="rvq", split="test")
    }
    gains = []
    for row in pick(rows, metric=metric, method="sc-lmkb", quantizer="rvq", split="test"):
        other = by_place.get(place(row))
        if other is not None and other.mean > 0:
            gains.append((row.mean / other.mean - 1.0, row))
    return gains


def _best_gain(rival: str) -> Ours:
    def ours(rows: Sequence[Row]) -> str | None:
        gains = relative_gains(rows, "r_at_1", rival)
        if not gains:
            return None
        gain, at = max(gains, key=lambda pair: pair[0])
        return f"up to {100 * gain:+.1f} % ({at.task}, {at.scenario}, {at.snr_db:g} dB)"

    return ours


def _gains_at_25_db(rows: Sequence[Row]) -> str | None:
    gains = [
        gain
        for rival in ("deepsc-mimo", "llm4cp", "csi-llm")
        for gain, at in relative_gains(rows, "map", rival)
        if at.snr_db == 25.0
    ]
    return f"{100 * min(gains):+.1f} … {100 * max(gains):+.1f} %" if gains else None


_DIRECTIONS: Final = (("T2A", "text-to-audio"), ("A2T", "audio-to-text, Sinkhorn"))


def _gpa(
    table: str, row: str, figures: Sequence[str], variant: str | None, method: str = "gpa"
) -> list[Reported]:
    """Both directions of a row of GPA's tables; DP's scores hold no Sinkhorn bias."""
    made = []
    for (short, direction), figure in zip(_DIRECTIONS, figures, strict=True):
        way = direction if method == "gpa" else direction.removesuffix(", Sinkhorn")
        ours = None if variant is None else _ranks(method, f"{variant}, {way}", "audio")
        made.append(Reported(table, f"{row}, {short}, R@1 / 5 / 10", figure, ours))
    return made


def _relative(dataset: str, figures: Sequence[str]) -> list[Reported]:
    return [
        Reported(
            "section 3.2",
            f"GPA over DP, NT-Xent, {dataset}, {short}, relative R@1",
            figure,
            _difference(
                "r_at_1_relative_gain",
                f"GPA over DP, NT-Xent, {way.removesuffix(', Sinkhorn')}",
            ),
        )
        for (short, way), figure in zip(_DIRECTIONS, figures, strict=True)
    ]


def _noisy(method: str, noise: int) -> Ours:
    return _ranks(method, f"continuations, {noise} noise sentences, zero-shot", "image")


def _sew(where: str, what: str, figure: str, method: str, variant: str | None = None) -> Reported:
    return Reported(where, f"{what}, Rank-1 / 5 / 10", figure, _ranks(method, variant, "person"))


SC_LMKB: Final = Paper(
    "SC-LMKB (arXiv 2604.05504)",
    "Person, image and audio retrieval on CUHK-PEDES, ICFG-PEDES, RSTPReid, an image and an audio set, with encoders "
    "trained for them; ours: generated corpora and frozen encoders with small heads (docs/retrieval.md). Its figures 6 "
    "to 10 and 12 are curves without tables; of its text the abstract was at hand, and the range at 25 dB from others' "
    "summaries of it.",
    (
        Reported(
            "abstract", "R@1 over conventional SC", "up to +72.6 %", _best_gain("deepsc-mimo")
        ),
        Reported("abstract", "R@1 over LLM-enabled SC", "up to +90.7 %", _best_gain("llm-sc")),
        Reported(
            "text, 25 dB",
            "mAP at 25 dB over DeepSC-MIMO, CSI-LLM and LLM4CP",
            "+24.9 … +65.6 %",
            _gains_at_25_db,
        ),
    ),
)
GPA: Final = Paper(
    "GPA",
    "AudioCaps and Clotho with ResNet-38 and BERT, all trained; ours: `soundscapes` with a frozen transformer and "
    "trained readouts.",
    (
        *_relative("AudioCaps", ("+6.7 %", "+12.2 %")),
        *_relative("Clotho", ("+9.0 %", "+14.8 %")),
        *_gpa(
            "table 1",
            "DP, triplet-sum, AudioCaps",
            ("32.2 / 68.2 / 81.6", "36.1 / 69.2 / 81.4"),
            "table 1, DP, triplet-sum",
            "dp",
        ),
        *_gpa(
            "table 1",
            "DP, NT-Xent, AudioCaps",
            ("33.9 / 69.7 / 82.6", "39.4 / 72.0 / 83.9"),
            "table 1, DP, NT-Xent",
            "dp",
        ),
        *_gpa(
            "table 1",
            "GPA, triplet-sum, AudioCaps",
            ("35.3 / 71.0 / 83.2", "42.6 / 74.5 / 86.7"),
            "table 1, GPA, triplet-sum",
        ),
        *_gpa(
            "table 1",
            "GPA, NT-Xent, AudioCaps",
            ("36.2 / 71.4 / 82.9", "44.2 / 75.9 / 86.7"),
            "table 1, GPA, NT-Xent",
        ),
        *_gpa(
            "table 1",
            "DP, triplet-sum, Clotho",
            ("14.2 / 36.6 / 49.3", "16.1 / 37.5 / 50.7"),
            "table 1, DP, triplet-sum",
            "dp",
        ),
        *_gpa(
            "table 1",
            "DP, NT-Xent, Clotho",
            ("14.4 / 36.6 / 49.9", "16.2 / 37.5 / 50.2"),
            "table 1, DP, NT-Xent",
            "dp",
        ),
        *_gpa(
            "table 1",
            "GPA, triplet-sum, Clotho",
            ("15.7 / 39.0 / 51.3", "18.2 / 40.9 / 53.9"),
            "table 1, GPA, triplet-sum",
        ),
        *_gpa(
            "table 1",
            "GPA, NT-Xent, Clotho",
            ("15.7 / 39.1 / 50.9", "18.6 / 42.4 / 55.3"),
            "table 1, GPA, NT-Xent",
        ),
        *(
            reported
            for row, figures in {
                "attention, K = 3": ("35.1 / 70.6", "44.3 / 75.4"),
                "mask, K = 1": ("35.1 / 70.8", "43.2 / 74.9"),
                "mask, K = 2": ("35.5 / 70.8", "45.1 / 74.7"),
                "mask, K = 3": ("36.2 / 71.4", "44.2 / 75.9"),
                "mask, K = 4": ("35.3 / 70.1", "45.6 / 74.2"),
                "mask, K = 5": ("36.1 / 70.6", "43.9 / 75.8"),
                "mask, K = 10": ("35.7 / 70.5", "43.2 / 74.8"),
            }.items()
            for reported in _gpa("table 2", row, [f"{f} / –" for f in figures], f"table 2, {row}")
        ),
        *(
            reported
            for row, figures in {
                "mean pooling": ("34.7 / 69.1", "41.6 / 73.5"),
                "softmax weight": ("35.3 / 70.7", "43.7 / 74.4"),
                "LASS": ("36.2 / 71.4", "44.2 / 75.9"),
            }.items()
            for reported in _gpa("table 3", row, [f"{f} / –" for f in figures], f"table 3, {row}")
        ),
        Reported(
            "table 4",
            "without Sinkhorn, A2T, R@1 / 5 / 10",
            "43.5 / 74.9 / 86.2",
            _ranks("gpa", "table 4, without Sinkhorn, audio-to-text", "audio"),
        ),
        Reported(
            "table 4",
            "with Sinkhorn, A2T, R@1 / 5 / 10",
            "44.2 / 75.9 / 86.7",
            _ranks("gpa", "table 4, with Sinkhorn, audio-to-text, Sinkhorn", "audio"),
        ),
        Reported(
            "section 3.3",
            "Sinkhorn over none, A2T, relative R@1",
            "+1.6 %",
            _difference("r_at_1_relative_gain", "Sinkhorn over none, GPA, audio-to-text"),
        ),
    ),
)
ITRIEVAL: Final = Paper(
    "ItrievalKD",
    "Noisy-MSCOCO and PhotoChat with CLIP (ViT-B/32; RN50); ours: `noisy-scenes`, 1,000 pictures, MiniLM with a "
    "trained head, noise by SmolLM2.",
    (
        Reported("table 1", "key sentences alone", "56.3 / 80.5 / 88.8", _noisy("key", 3)),
        *(
            Reported(
                "table 1",
                f"{title}, {noise} noise sentences, zero-shot, R@1 / 5 / 10",
                figure,
                _noisy(method, noise),
            )
            for noise, method, title, figure in (
                (1, "raw", "noisy text", "48.4 / 74.7 / 84.5"),
                (1, "itrieval-kd", "ItrievalKD", "52.9 / 80.4 / 88.8"),
                (2, "raw", "noisy text", "37.9 / 66.7 / 78.0"),
                (2, "itrieval-kd", "ItrievalKD", "53.6 / 80.4 / 88.4"),
                (3, "raw", "noisy text", "25.7 / 48.4 / 63.4"),
                (3, "itrieval-kd", "ItrievalKD", "53.9 / 79.8 / 88.4"),
            )
        ),
        Reported(
            "table 1",
            "ItrievalKD at 3 noise sentences, share of Key's R@1",
            "95.7",
            _mean(
                "r_at_1_share_of_key",
                "itrieval-kd",
                "continuations, 3 noise sentences, zero-shot",
            ),
        ),
        *(
            Reported("table 1, RN50", what, figure)
            for what, figure in (
                ("key sentences alone", "55.2 / 79.9 / 87.3"),
                ("noisy text, 1, 2 and 3 noise sentences, R@1", "49.7, 44.6, 32.3"),
                ("ItrievalKD, 1, 2 and 3 noise sentences, R@1", "53.7, 54.0, 54.0"),
            )
        ),
        *(
            Reported("table 2, PhotoChat", f"{what}, zero-shot; fine-tuned, R@1", figure)
            for what, figure in (
                ("CLIP ViT-B/32", "23.3; 38.5"),
                ("TF-IDF", "13.1; 27.2"),
                ("TextRank", "12.8; 22.5"),
                ("ItrievalKD", "26.7; 41.2"),
                ("ItrievalKD, RN50", "26.3; 34.5"),
            )
        ),
        *(
            Reported(
                "table 3",
                f"key sentences found by the teacher, {noise} noise sentences",
                figure,
                _mean("selection_accuracy", "teacher", f"continuations, {noise} noise sentences"),
            )
            for noise, figure in ((1, "98.23"), (2, "97.60"), (3, "96.53"))
        ),
    ),
)
SEW_MCM: Final = Paper(
    "Sew + MCM",
    "CUHK-PEDES (1,000 persons of test) with ViT-Base and BERT, all trained; ours: `pedestrians` (1,000 persons) with "
    "frozen encoders and trained heads.",
    (
        Reported("table 4, model 1", "ResNet-50, CMPM + CMPC", "60.39 / 80.22 / 86.53"),
        _sew("table 4, model 2", "CMPM + CMPC", "62.29 / 81.25 / 87.22", "cmpm-cmpc"),
        _sew("table 4, model 3", "Sew, fixed margin", "65.41 / 82.56 / 88.01", "sew-fixed"),
        _sew("table 4, model 4", "Sew, adaptive margin", "66.02 / 83.33 / 88.61", "sew-adaptive"),
        _sew("table 4, model 5", "MCM", "65.16 / 81.95 / 87.93", "mcm"),
        _sew("tables 1 and 4, model 6", "Sew + MCM", "67.71 / 84.57 / 89.44", "sew-mcm"),
        _sew("table 1", "the same, re-ranked", "71.09 / 86.78 / 91.23", "sew-mcm", "re-ranked"),
        Reported("table 1", "the same, image encoder of CLIP", "69.61 / 86.01 / 90.90"),
        Reported("table 1", "both", "73.81 / 88.89 / 92.77"),
        Reported(
            "table 4",
            "Sew + MCM over CMPM + CMPC, points of Rank-1 (its text says 4.57)",
            "+5.42",
            _difference("r_at_1_difference", "sew-mcm vs cmpm-cmpc"),
        ),
        Reported(
            "table 1",
            "re-ranking, points of Rank-1",
            "+3.38",
            _difference("r_at_1_difference", "sew-mcm re-ranked vs sew-mcm"),
        ),
        Reported("table 2, ICFG-PEDES", "Sew + MCM; re-ranked, Rank-1", "60.20; 72.17"),
        Reported("table 2, ICFG-PEDES", "CMPM/C, Rank-1", "43.51"),
        Reported("table 3, RSTPReid", "Sew + MCM; re-ranked, Rank-1", "50.75; 55.35"),
        _sew("table 5", "words masked alone", "63.65 / 81.84 / 87.51", "mask-only"),
        Reported("table 5", "attention alone", "63.83 / 80.87 / 86.35"),
        _sew(
            "table 5", "modelling without attention", "64.28 / 81.97 / 87.75", "mcm-without-image"
        ),
    ),
)
PAPERS: Final = (SC_LMKB, GPA, ITRIEVAL, SEW_MCM)


def table(paper: Paper, rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown: the paper's figures in percent, ours beside them."""
    lines = ["| place | figure | paper | ours |", "|---|---|---|---|"]
    for one in paper.reported:
        ours = "not here" if one.ours is None else one.ours(rows) or "not measured"
        lines.append(f"| {one.where} | {one.what} | {one.figure} | {ours} |")
    return lines
