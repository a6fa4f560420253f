"""Experiments at a tiny size, and what their figures rest on: bootstrap, rate–distortion line, sampling, resumption."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from lab.evaluation import cache
from lab.evaluation.bootstrap import paired_difference, resampled_means, share_of_gap
from lab.evaluation.cache import JsonlTable
from lab.evaluation.csi_metrics import CHANNEL, ESTIMATE, WHEN_USED
from lab.evaluation.csi_samples import Condition, draw_samples
from lab.evaluation.report import pick, read_rows
from lab.experiments import (
    channel_uses_sweep,
    csi_quantization,
    feedback_bits_sweep,
    snr_sweep,
)
from lab.experiments.rate_distortion import covariance_spectrum, gaussian_nmse_db
from lab.experiments.registry import experiment
from lab.experiments.retrieval_sweep import (
    GalleryEncoder,
    draw_queries,
    judge,
    measure,
    measurements,
    offered,
)
from lab.experiments.sweep import (
    IDEAL,
    JSCC,
    NO_FEEDBACK,
    PERFECT,
    SEPARATION,
    STRETCH_SLOTS,
    Point,
    Sampling,
    report_scheme,
)
from semlink.errors import InvalidField
from semlink.links import slot_of_query
from semlink.semantics.metrics import retrieval_metrics

TINY = Sampling("person", seeds=2, queries=12, links=3)


@pytest.fixture
def console():
    with open("/dev/null", "w") as nowhere:
        yield Console(file=nowhere, width=200)


# --- bootstrap ---------------------------------------------------------------------------------


def test_a_constant_difference_has_a_point_for_an_interval():
    b = np.random.default_rng(1).random(60)
    mean, (low, high) = paired_difference(b + 0.25, b, np.arange(60) // 5)
    assert mean == pytest.approx(0.25)
    assert (low, high) == pytest.approx((0.25, 0.25))


def test_single_queries_as_clusters_give_the_interval_of_the_normal_law():
    difference = np.random.default_rng(2).normal(0.1, 1.0, 2000)
    mean, (low, high) = paired_difference(difference, np.zeros(2000), np.arange(2000))
    half = 1.96 * difference.std() / math.sqrt(2000)
    assert mean == pytest.approx(difference.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


def test_queries_of_one_link_that_agree_count_as_one():
    # 50 links of 20 queries each that all say the same: the interval is that of 50 values, not of 1000.
    of_link = np.random.default_rng(3).normal(0.0, 1.0, 50)
    clusters = np.repeat(np.arange(50), 20)
    _, (low, high) = paired_difference(of_link[clusters], np.zeros(1000), clusters)
    assert (high - low) / 2 == pytest.approx(1.96 * of_link.std() / math.sqrt(50), rel=0.15)


def test_resampled_means_of_unequal_clusters_weigh_queries_not_clusters():
    values, clusters = np.array([[1.0], [1.0], [1.0], [0.0]]), np.array([7, 7, 7, 9])
    means = resampled_means(values, clusters)[:, 0]
    # two clusters drawn from {three ones, one zero}: both the same, or all four queries
    assert set(np.round(means, 6)) == {0.0, 0.75, 1.0}


def test_half_of_a_gap():
    rng = np.random.default_rng(4)
    worse = rng.random(300)
    best = worse + rng.uniform(0.1, 0.3, 300)
    share, (low, high) = share_of_gap((worse + best) / 2, worse, best, np.arange(300) // 3)
    assert share == pytest.approx(0.5)
    assert (low, high) == pytest.approx((0.5, 0.5))


# --- rate–distortion ---------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0, 1, 64, 700])
def test_white_source_follows_its_closed_form(bits):
    # D = 2^(−R/n) for n circular complex components of equal power.
    assert gaussian_nmse_db(np.full(100, 0.3), bits) == pytest.approx(
        -10 * math.log10(2) * bits / 100, abs=1e-9
    )


def test_two_components_before_and_after_the_second_is_served():
    # λ = (4, 1): up to 2 bits only the first is coded, from there on both at the same distortion.
    spectrum = np.array([4.0, 1.0])
    assert gaussian_nmse_db(spectrum, 1) == pytest.approx(10 * math.log10((2 + 1) / 5))
    assert gaussian_nmse_db(spectrum, 2) == pytest.approx(10 * math.log10((1 + 1) / 5))
    assert gaussian_nmse_db(spectrum, 4) == pytest.approx(10 * math.log10((0.5 + 0.5) / 5))


def test_reverse_water_filling_agrees_with_a_search_for_the_water_level():
    spectrum = np.random.default_rng(5).exponential(1.0, 64) ** 3
    low, high = 0.0, spectrum.max()
    for _ in range(200):
        level = (low + high) / 2
        rate_ = np.log2(np.maximum(spectrum / level, 1)).sum()
        low, high = (level, high) if rate_ > 37 else (low, level)
    expected = 10 * math.log10(np.minimum(spectrum, level).sum() / spectrum.sum())
    assert gaussian_nmse_db(spectrum, 37) == pytest.approx(expected, abs=1e-6)


def test_spectrum_of_independent_antennas_is_flat_and_keeps_the_power():
    generator = torch.Generator().manual_seed(6)
    h = torch.randn(20_000, 2, 1, 3, dtype=torch.complex64, generator=generator)
    spectrum = covariance_spectrum([h[:9000], h[9000:]])
    assert spectrum.shape == (6,)
    assert spectrum == pytest.approx(np.ones(6), rel=0.06)
    assert spectrum.sum() == pytest.approx(float(h.abs().square().sum() / len(h)), rel=1e-5)


# --- sampling ----------------------------------------------------------------------------------


def test_queries_of_a_link_ride_within_its_stretch_in_slots_of_their_own_seeds():
    sampling = Sampling("person", seeds=1, queries=60, links=5)
    for link in range(5):
        numbers = range(link, 60, 5)
        seeds = [sampling.query_seed(0, n) for n in numbers]
        config = Point(JSCC).link(sampling.link_seed(0, link))
        slots = [slot_of_query(config, s) for s in seeds]
        assert len(set(seeds)) == len(seeds)
        assert max(slots) - min(slots) < STRETCH_SLOTS
    assert len({sampling.link_seed(s, q) for s in range(3) for q in range(60)}) == 15


def test_more_queries_than_captions_are_refused():
    with pytest.raises(InvalidField, match="queries"):
        draw_queries(Sampling("person", queries=10**6), 0)


def test_an_erased_query_is_a_miss_and_the_others_count_as_the_metrics_say():
    queries = draw_queries(TINY, 0)
    vectors = GalleryEncoder("pedestrians")._known
    features = np.stack([vectors["person", text.strip()][0] for text in queries.texts])
    erased = np.zeros(12, dtype=bool)
    whole = judge(features, erased, queries)
    expected = retrieval_metrics(features @ queries.gallery.T, queries.relevant)
    assert whole[:3].mean(axis=1) == pytest.approx(
        [expected["map"], expected["r_at_1"], expected["r_at_10"]], abs=1e-6
    )
    erased[3] = True
    features[3] = 0
    judged = judge(features, erased, queries)
    assert not judged[:3, 3].any()
    assert judged[3].tolist() == erased.tolist()
    np.testing.assert_array_equal(np.delete(judged, 3, axis=1), np.delete(whole, 3, axis=1))


def test_schemes_that_differ_in_their_label_only_are_measured_once():
    assert report_scheme("rvq", 64) == JSCC
    assert Point(report_scheme("rvq", 64)) == Point(JSCC)
    assert Point(report_scheme("rvq", 64, "fused")) != Point(JSCC)


# --- experiments at a tiny size ----------------------------------------------------------------


def test_snr_writes_well_formed_rows_and_resumes_to_the_same(tmp_path, console, monkeypatch):
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / "first"))
    plan = snr_sweep.Plan(TINY, num_users=2, snrs_db=(0.0, 20.0), groups=("feedback",))
    asked = experiment("snr", plan)
    first = asked.run(tmp_path / "a", console)
    assert json.loads((tmp_path / "a" / "snr-person-umi-los.json").read_text())["rows"]
    _check_rows(first.rows)
    assert {"r_at_1", "r_at_10", "map", "map_difference", "map_share_of_ideal"} <= {
        row.metric for row in first.rows
    }
    assert (tmp_path / "a" / "snr-person-umi-los-feedback.png").stat().st_size > 10_000
    assert (tmp_path / "a" / "snr-person-umi-los-feedback.svg").exists()

    # From another, empty cache: interrupted after the fifth point, its last line cut short; then resumed.
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / "second"))
    study = snr_sweep.study(plan)
    kept = JsonlTable.put
    count = 0

    def stop(self, value, place):
        nonlocal count
        count += 1
        if count > 5:
            raise KeyboardInterrupt
        kept(self, value, place)

    monkeypatch.setattr(JsonlTable, "put", stop)
    with pytest.raises(KeyboardInterrupt):
        asked.run(tmp_path / "b", console)
    (partial,) = (tmp_path / "second" / "measurements").glob("*/*.jsonl")
    partial.write_text(partial.read_text()[:-9])
    remade = []
    monkeypatch.setattr(JsonlTable, "put", lambda self, v, k: (remade.append(k), kept(self, v, k)))
    second = asked.run(tmp_path / "b", console)
    assert second.rows == first.rows
    points = {p.measured() for p in offered(study.points, console)}
    assert len(remade) == TINY.seeds * len(points) - 4

    # What was measured once is not measured again, unless asked.
    remade.clear()
    assert asked.run(tmp_path / "c", console).rows == first.rows
    assert not remade
    assert asked.run(tmp_path / "c", console, fresh=True).rows == first.rows
    assert len(remade) == TINY.seeds * len(points)


def test_another_sampling_weights_or_program_do_not_use_what_was_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path))
    measurements(TINY).put(1, "a")
    assert "a" in measurements(TINY)
    assert "a" not in measurements(dataclasses.replace(TINY, links=4))
    for name in ("weights_hash", "source_hash"):
        with monkeypatch.context() as other:
            other.setattr(cache, name, lambda *_: "other")
            assert "a" not in measurements(TINY)


def test_the_ideal_link_is_the_gallery_search_and_perfect_csi_is_near_it(tmp_path):
    points = [Point(IDEAL, snr_db=7.0), Point(PERFECT, num_users=1, snr_db=30.0)]
    points += [Point(NO_FEEDBACK, num_users=4, snr_db=-15.0)]
    outcomes = measure(points, TINY, JsonlTable(tmp_path / "kept.jsonl"), "test")
    ideal, perfect, blind = (np.mean(outcomes[p].per_seed("map")) for p in points)
    vectors = GalleryEncoder("pedestrians")._known
    expected = []
    for seed in range(TINY.seeds):
        queries = draw_queries(TINY, seed)
        features = np.stack([vectors["person", text.strip()][0] for text in queries.texts])
        scores = features @ queries.gallery.T
        expected.append(retrieval_metrics(scores, queries.relevant)["map"])
    assert ideal == pytest.approx(np.mean(expected), abs=1e-6)
    assert perfect > 0.8 * ideal
    assert blind < 0.5 * ideal


def test_rate_and_feedback_run_tiny(tmp_path, console, monkeypatch):
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path))
    small = channel_uses_sweep.Plan(TINY, snrs_db=(10.0,), symbols=(8, 64))
    report = experiment("rate", small).run(tmp_path, console)
    _check_rows(report.rows)
    joint = pick(report.rows, metric="map", method="deepsc-mimo")
    assert sorted(row.symbols for row in joint) == [8, 64]
    with (tmp_path / "rate-person-umi-los.csv").open() as file:
        lines = list(csv.DictReader(file))
    for row in joint:
        at = {"method": "deepsc-mimo", "metric": "map", "symbols": str(row.symbols)}
        (line,) = [x for x in lines if at.items() <= x.items()]
        assert (float(line["mean"]), float(line["sd"])) == (row.mean, row.sd)
        assert (line["num_users"], line["queries"]) == ("1", str(TINY.queries))
    versus = {x["baseline"] for x in lines if x["metric"] == "map_difference"}
    assert versus
    assert versus <= {"separation", "vq-digital"}
    # what is not offered is left out, never made up
    assert bool(pick(report.rows, metric="map", method="separation")) == (
        Point(SEPARATION).refusal() is None
    )

    plan = feedback_bits_sweep.Plan(
        TINY, speeds_kmh=(3.0,), user_counts=(2,), snrs_db=(25.0,), bits=(16, 64)
    )
    report = experiment("feedback", plan).run(tmp_path, console)
    _check_rows(report.rows)
    plain = pick(report.rows, metric="map", quantizer="rvq", variant="2 users")
    assert sorted(row.bits for row in plain) == [16, 64]
    versus = [r.variant for r in pick(report.rows, metric="map_difference")]
    assert "RVQ 64 bits vs scalar 512 bits, 2 users" in versus
    assert "perfect CSI vs RVQ 16 bits, 2 users" in versus


def test_csi_rate_runs_tiny(tmp_path, console):
    plan = csi_quantization.Plan(
        scenarios=("umi-los",), bits=(16, 64), seeds=2, drops=1, training_drops=3
    )
    report = experiment("csi-rate", plan).run(tmp_path, console)
    _check_rows(report.rows)
    assert read_rows(tmp_path / "csi-rate.json")[0].metric == report.rows[0].metric
    assert (tmp_path / "csi-rate.png").stat().st_size > 10_000
    at = {"quantizer": "rvq", "metric": "sgcs"}
    for variant in (ESTIMATE, CHANNEL, WHEN_USED):
        few, many = (pick(report.rows, bits=b, variant=variant, **at)[0] for b in (16, 64))
        assert 1 / 16 < few.mean < many.mean < 1
    # codebooks of precoders have no NMSE, the others do; the Gaussian line falls
    assert not [
        r for r in report.rows if r.metric == "nmse_db" and r.quantizer in ("type1", "etype2")
    ]
    line = pick(report.rows, quantizer="gaussian-rd")
    assert [r.bits for r in line] == [16, 64]
    assert 0 > line[0].mean > line[1].mean
    perfect = pick(report.rows, quantizer="perfect", metric="sgcs", variant=CHANNEL)[0]
    blind = pick(report.rows, quantizer="none", metric="sgcs", variant=CHANNEL)[0]
    assert perfect.mean == pytest.approx(1.0, abs=1e-5)
    assert blind.mean == pytest.approx(1 / 16, abs=0.02)


def test_samples_age_with_speed_and_are_no_training_drops():
    slow, fast = (
        draw_samples(Condition("aged", "uma-nlos", kmh), 20.0, 0, 1) for kmh in (3.0, 60.0)
    )
    for samples, low, high in ((slow, 0.8, 1.0), (fast, 0.0, 0.7)):
        inner = (samples.channels.conj() * samples.when_used).sum((-3, -2, -1)).abs()
        norms = samples.channels.flatten(2).norm(dim=2) * samples.when_used.flatten(2).norm(dim=2)
        assert low < float((inner / norms).square().mean()) <= high
        error = samples.estimates[:, samples.judged] - samples.channels
        nmse = error.abs().square().sum() / samples.channels.abs().square().sum()
        assert -35 < 10 * math.log10(float(nmse)) < -20
    assert slow.estimates.shape[0] == slow.channels.shape[0] == 32


def test_held_out_names_what_is_lost():
    plan = csi_quantization.Plan(held_out=True, seeds=2)
    condition, default = plan.held_out_pairs()[0]
    key = ("rvq", 64, "", WHEN_USED, "sgcs")
    gain = ("rvq", 64, "", WHEN_USED, "precoding_gain_db")
    bound = ("perfect", 0, "", WHEN_USED, "precoding_gain_db")
    here, there = {key: 0.5, gain: 10.0, bound: 13.0}, {key: 0.7, gain: 11.0, bound: 12.0}
    measured = {
        pair[i]: [m, m] for pair in plan.held_out_pairs() for i, m in ((0, here), (1, there))
    }
    rows = pick(
        csi_quantization._loss_rows(plan, measured), scenario=condition.scenario, metric="sgcs_loss"
    )
    assert default.scenario == "uma-nlos"
    assert [row.mean for row in rows] == pytest.approx([0.2] * len(rows))
    (short,) = [
        row
        for row in csi_quantization._loss_rows(plan, measured)
        if row.metric == "precoding_shortfall_loss_db" and row.variant.startswith("cdl-b")
    ]
    assert short.mean == pytest.approx((13 - 10) - (12 - 11))


def _check_rows(rows):
    assert rows
    seen = set()
    for row in rows:
        assert math.isfinite(row.mean)
        if row.ci95 is not None:
            assert row.ci95[0] <= row.mean + 1e-9
            assert row.mean - 1e-9 <= row.ci95[1]
        if row.metric in ("map", "r_at_1", "r_at_10", "erased", "sgcs"):
            assert 0 <= row.mean <= 1 + 1e-6
        identity = dataclasses.replace(row, mean=0.0, sd=None, ci95=None, seeds=None)
        assert identity not in seen, f"two rows at the same coordinates: {identity}"
        seen.add(identity)
