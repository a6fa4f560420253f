"""The papers' figures: each has a place, ours is found by coordinates, what is not here is said to be so."""

from __future__ import annotations

import re
from typing import Any

from lab.evaluation.report import Row
from tools.docs.paper_values import GPA, ITRIEVAL, PAPERS, SC_LMKB, SEW_MCM, relative_gains, table


def ranks(figures: tuple[float, float, float], **at: Any) -> list[Row]:
    return [
        Row(metric=f"r_at_{k}", mean=value, split="test", **at)
        for k, value in zip((1, 5, 10), figures, strict=True)
    ]


def test_every_figure_has_a_place_and_a_number() -> None:
    for paper in PAPERS:
        assert paper.setting.endswith(".")
        for one in paper.reported:
            assert one.where.startswith(("abstract", "table", "section", "text"))
            assert re.search(r"\d", one.figure)
    assert [len(p.reported) for p in PAPERS] == [3, 43, 19, 17]


def test_ours_stands_beside_theirs() -> None:
    rows = [
        *ranks((0.7, 0.9, 0.95), method="sew-mcm", task="person"),
        *ranks((0.6, 0.8, 0.85), method="sew-mcm", task="person", variant="re-ranked"),
        Row("r_at_1_difference", 0.044, ci95=(0.0282, 0.0597), variant="sew-mcm vs cmpm-cmpc"),
    ]
    lines = table(SEW_MCM, rows)
    assert sum("67.71 / 84.57 / 89.44 | 70.0 / 90.0 / 95.0 |" in line for line in lines) == 1
    assert sum("71.09 / 86.78 / 91.23 | 60.0 / 80.0 / 85.0 |" in line for line in lines) == 1
    assert sum("| +5.42 | +4.4 [+2.8, +6.0] |" in line for line in lines) == 1
    assert sum("| not measured |" in line for line in lines) == 7
    # ICFG-PEDES and RSTPReid are no data of ours.
    assert sum("PEDES" in line and "| not here |" in line for line in lines) == 2


def test_directions_of_gpa_are_not_mixed_up() -> None:
    rows = [
        *ranks(
            (0.4, 0.7, 0.8),
            method="dp",
            task="audio",
            variant="table 1, DP, NT-Xent, text-to-audio",
        ),
        *ranks(
            (0.5, 0.7, 0.8),
            method="dp",
            task="audio",
            variant="table 1, DP, NT-Xent, audio-to-text",
        ),
        *ranks(
            (0.6, 0.7, 0.8),
            method="gpa",
            task="audio",
            variant="table 1, GPA, NT-Xent, audio-to-text, Sinkhorn",
        ),
    ]
    found = {line.split(" | ")[1]: line.split(" | ")[3] for line in table(GPA, rows)[2:]}
    assert found["DP, NT-Xent, AudioCaps, T2A, R@1 / 5 / 10"].startswith("40.0 /")
    assert found["DP, NT-Xent, AudioCaps, A2T, R@1 / 5 / 10"].startswith("50.0 /")
    assert found["GPA, NT-Xent, AudioCaps, A2T, R@1 / 5 / 10"].startswith("60.0 /")
    assert found["GPA, NT-Xent, AudioCaps, T2A, R@1 / 5 / 10"].startswith("not measured")


def test_a_share_of_key_is_that_of_the_student() -> None:
    variant = "continuations, 3 noise sentences, zero-shot"
    rows = [
        Row("r_at_1_share_of_key", mean, split="test", method=method, variant=variant)
        for method, mean in (("raw", 0.88), ("itrieval-kd", 0.988))
    ]
    assert sum("| 95.7 | 98.8 |" in line for line in table(ITRIEVAL, rows)) == 1


def test_relative_gains_pair_one_corpus_and_link() -> None:
    def at(method: str, mean: float, corpus: str, snr_db: float = 0.0) -> Row:
        coordinates = {"quantizer": "rvq", "split": "test", "task": "image"}
        return Row("r_at_1", mean, method=method, corpus=corpus, snr_db=snr_db, **coordinates)  # type: ignore[arg-type]

    rows = [
        at("sc-lmkb", 0.6, "scenes"),
        at("deepsc-mimo", 0.5, "scenes"),
        at("sc-lmkb", 0.3, "flickr8k"),
        at("deepsc-mimo", 0.1, "flickr8k", 5.0),
    ]
    ((gain, row),) = relative_gains(rows, "r_at_1", "deepsc-mimo")
    assert abs(gain - 0.2) < 1e-9
    assert row.corpus == "scenes"
    assert any("up to +20.0 % (image" in line for line in table(SC_LMKB, rows))
