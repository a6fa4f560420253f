"""The sampler by itself, and the real model where its package is installed (few tokens)."""

import threading

import pytest
import torch
from transformers import AutoModelForCausalLM

from kb_service.llm import (
    MAX_ROWS,
    MODEL_NAME,
    Dialogue,
    GenerationCancelled,
    GenerationRequest,
    load_language_model,
    sample_top_p,
)
from kb_service.prompting import STRATEGIES
from semlink.errors import InvalidField, NotFound
from semlink.models import locate
from semlink.settings import Settings
from semlink.telemetry import registry


def test_sampling_follows_the_nucleus():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    draws = torch.linspace(0, 1, 20001)[:-1].double()
    rows = logits.expand(len(draws), -1)
    tokens = sample_top_p(rows, torch.ones(len(draws)), 0.9, draws)
    share = torch.bincount(tokens, minlength=4) / len(draws)
    # 0.5 + 0.3 < 0.9, so the third token completes the nucleus and the fourth is out.
    torch.testing.assert_close(share, torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95, atol=1e-3, rtol=0)


def test_sampling_follows_the_temperature():
    logits = torch.log(torch.tensor([0.8, 0.2]))
    draws = torch.linspace(0, 1, 20001)[:-1].double()
    rows = logits.expand(len(draws), -1)
    cold = sample_top_p(rows, torch.full((len(draws),), 0.5), 1.0, draws)
    # p ∝ 0.8², 0.2²
    assert float((cold == 0).float().mean()) == pytest.approx(0.64 / 0.68, abs=1e-3)


def test_rows_of_a_sample_are_independent():
    logits = torch.randn(16, 500, generator=torch.Generator().manual_seed(0)) * 3
    temperature = torch.linspace(0.3, 1.5, 16)
    draws = torch.rand(16, generator=torch.Generator().manual_seed(1)).double()
    together = sample_top_p(logits, temperature, 0.95, draws)
    for i in range(16):
        one = slice(i, i + 1)
        alone = sample_top_p(logits[one], temperature[one], 0.95, draws[one])
        assert torch.equal(alone, together[one])


@pytest.mark.parametrize("top_p", [0.0, 1.01, float("nan")])
def test_top_p_is_checked(top_p):
    with pytest.raises(InvalidField):
        sample_top_p(torch.zeros(1, 3), torch.ones(1), top_p, torch.zeros(1))


@pytest.fixture(scope="module", params=["openvino", "torch"])
def llm(request):
    try:
        locate("smollm2")
    except NotFound as missing:
        pytest.skip(missing.message)
    return load_language_model(Settings().cache_dir, runs_on=request.param)


@pytest.fixture(scope="module")
def plain(llm):
    """The model of transformers, without any of ours."""
    folder = Settings().cache_dir / MODEL_NAME
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prefix(llm):
    return llm.prefix("Q: red\nA: colour\nQ: dog\nA: animal\n")


def _request(prompt, *, samples=2, temperature=0.9, seed=0, tokens=4):
    return GenerationRequest(prompt, samples, temperature, seed, tokens)


def differing(texts, others):
    """Samples that are not the same. Rounding may turn one whose draw falls on a token's edge; a fault turns many."""
    pairs = [pair for a, b in zip(texts, others, strict=True) for pair in zip(a, b, strict=True)]
    return sum(a != b for a, b in pairs)


def test_batch_mates_change_nothing(llm, prefix):
    requests = [
        _request("Q: cat\nA:", samples=3),
        # another length, temperature and limit
        _request("Q: a very long and winding road\nA:", samples=12, temperature=1.3, tokens=4),
        _request("Q: blue\nA:", samples=1, seed=5, tokens=3),
    ]
    together = llm.generate(prefix, requests)
    assert [len(texts) for texts in together] == [3, 12, 1]
    alone = [llm.generate(prefix, [request])[0] for request in requests]
    assert differing(alone, together) <= 1


def test_same_seed_same_text_other_seed_other_text(llm, prefix):
    (first,) = llm.generate(prefix, [_request("Q: tree\nA:", samples=2, temperature=1.5, tokens=3)])
    (again,) = llm.generate(prefix, [_request("Q: tree\nA:", samples=2, temperature=1.5, tokens=3)])
    (other,) = llm.generate(
        prefix, [_request("Q: tree\nA:", samples=2, temperature=1.5, tokens=3, seed=1)]
    )
    assert first == again
    assert first != other
    assert len(set(first)) > 1


def test_agrees_with_the_model_run_plainly(llm, prefix, plain):
    """Almost greedy, against the model called on the whole text without cache, padding or mates."""
    prompt = "Q: horse\nA:"
    (texts,) = llm.generate(prefix, [_request(prompt, samples=1, temperature=1e-4, tokens=4)])
    tokens = llm._tokens(prefix.text) + llm._tokens(prompt)
    expected = []
    with torch.inference_mode():
        for _ in range(4):
            best = int(plain(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
            if llm._ends[best]:
                break
            expected.append(best)
            tokens.append(best)
    assert texts == [llm._text(expected)]
    assert texts != [""]


def test_two_steps_of_a_padded_batch_give_the_logits_of_the_model(llm, plain):
    """Of prompts of two lengths after a padded prefix, then with the rows exchanged."""
    llm.check(plain)
    next_, found = llm._next, []
    llm._next = lambda rows, *rest: (found.append(rows), next_([0, 1], *rest))[1]
    try:
        with pytest.raises(InvalidField, match="something else than alone"):
            llm.check(plain)
    finally:
        llm._next = next_
    assert found == [[1, 0]]


def test_samples_that_have_said_the_same_are_one_row(llm, prefix, monkeypatch):
    """Almost greedy, 6 samples of 2 prompts are 2 rows at every step; alone one row is computed, not more."""
    rows = []
    step = llm._decoder.step
    monkeypatch.setattr(
        llm._decoder, "step", lambda r, *rest: (rows.append(len(r)), step(r, *rest))[1]
    )
    asked = [_request(f"Q: {word}\nA:", samples=3, temperature=1e-4) for word in ("cow", "car")]
    together = llm.generate(prefix, asked)
    assert rows[0] == 2
    assert max(rows) == 2
    assert all(len({*texts}) == 1 for texts in together)
    rows.clear()
    llm.generate(prefix, [_request("Q: cow\nA:", samples=1)])
    assert {*rows} == {1}


def test_generated_tokens_are_counted(llm, prefix):
    before = registry.get_sample_value("semlink_llm_tokens_total")
    (texts,) = llm.generate(prefix, [_request("Q: cow\nA:", samples=3, temperature=1e-4, tokens=4)])
    counted = registry.get_sample_value("semlink_llm_tokens_total") - before
    assert counted == sum(len(llm._tokens(text)) for text in texts) > 0


def test_ends_at_a_newline_and_at_the_limit(llm, prefix):
    (short, long) = llm.generate(
        prefix, [_request("Q: cow\nA:", tokens=1), _request("Q: cow\nA:", tokens=12)]
    )
    assert all("\n" not in text for text in short + long)
    assert all(len(llm._tokens(text)) <= 1 for text in short)


def test_cancelled_between_tokens(llm, prefix):
    stop = threading.Event()
    calls = []

    def cancelled():
        calls.append(None)
        if len(calls) == 2:
            stop.set()
        return stop.is_set()

    with pytest.raises(GenerationCancelled):
        llm.generate(prefix, [_request("Q: cow\nA:", tokens=50)], cancelled=cancelled)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "request_", [_request(""), _request("word " * 1100), _request("a", samples=0)]
)
def test_bad_requests_are_named(llm, prefix, request_):
    with pytest.raises(InvalidField, match=r"requests\[0\]"):
        llm.generate(prefix, [request_])


def test_the_converted_model_is_in_the_cache_and_nothing_half_done(llm):
    cache = Settings().cache_dir
    assert (cache / MODEL_NAME / "model.safetensors").is_file()
    assert not list(cache.glob(f"{MODEL_NAME}.*/"))


def test_strategies_and_temperatures_share_a_batch_and_change_nothing(llm, monkeypatch):
    """Also not what few-shot gave when it was alone: its beginning is the longest, hence not padded."""
    asked = [
        Dialogue(s.shared, s.ask(f"A {colour} bus."), samples, temperature, seed, 4)
        for seed, (s, colour, samples, temperature) in enumerate(
            zip(
                STRATEGIES.values(),
                ("red", "blue", "green"),
                (15, 13, 12),
                (0.4, 0.9, 1.3),
                strict=True,
            )
        )
    ]
    few_shot = asked[1]
    plain = llm.prefix(llm._format.beginning(few_shot.shared))
    request = llm._format.request(few_shot.shared, few_shot.ask)
    (before,) = llm.generate(plain, [_request(request, samples=13, temperature=0.9, seed=1)])
    llm.prepare([s.shared for s in STRATEGIES.values()])
    assert llm._prefixes[few_shot.shared].width == plain.num_tokens
    runs = []
    run = llm._run
    monkeypatch.setattr(llm, "_run", lambda *args: (runs.append(args[3]), run(*args)))
    together = llm.answer(asked)
    assert [len(samples) for samples in runs] == [MAX_ROWS], "not one batch"
    alone = [llm.answer([dialogue])[0] for dialogue in asked]
    assert differing(alone, together) <= 1
    assert differing([before], [together[1]]) <= 1
    assert len({*together[0], *together[1], *together[2]}) > 3


@pytest.mark.slow
def test_rewrites_of_a_caption_stay_near_it(llm):
    caption = "A dog barks twice, then rain falls."
    few_shot = STRATEGIES["few-shot"]
    dialogue = Dialogue(few_shot.shared, few_shot.ask(caption), 2, 0.9, 0, 20)
    (texts,) = llm.answer([dialogue])
    assert all("dog" in text.lower() or "rain" in text.lower() for text in texts)
