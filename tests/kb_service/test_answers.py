"""Answers as models really give them: the rewrite is taken, the rest dropped; what is no rewrite is none."""

import time

import pytest

from kb_service.answers import MAX_ANSWER_CHARACTERS, rewrite_in
from semlink.corpora.registry import corpus_named

BUS = "A bus that is red."
HOLDS_IT = [
    # as it should be
    BUS,
    "\n\n  A bus  that is red.\nI kept every colour.",
    # thinking, as Qwen3, DeepSeek-R1, Magistral, Kimi, Seed-OSS and gpt-oss write it
    f"<think>\nOkay, the user wants a rewrite. The bus is red.\n</think>\n\n{BUS}",
    f"<think>\n\n</think>\n\n{BUS}",
    f"Okay, the user wants me to rewrite the caption.\n</think>\n\n{BUS}",
    f"<thinking>red, bus</thinking><answer>{BUS}</answer>",
    f"[THINK]A red bus.[/THINK]{BUS}",
    f"◁think▷The caption names a bus.◁/think▷{BUS}",
    f"<seed:think>A bus.</seed:think>{BUS}",
    f"<think>One.</think> no, <think>Two.</think>{BUS}",
    "<|channel|>analysis<|message|>The user asks for a rewrite.<|end|><|start|>assistant"
    f"<|channel|>final<|message|>{BUS}<|return|>",
    # courtesies
    f"Sure! {BUS}",
    f"Sure! Here is a rewritten version of the caption:\n\n{BUS}",
    f"Sure, here's the rewritten caption: {BUS}",
    f'Certainly! Here\'s one way to say it in other words, rephrased:\n\n"{BUS}"',
    f"Of course!\n\n{BUS}",
    f"Here is the rewritten caption\n{BUS}",
    f"Okay, here are a few alternatives:\n\n1. {BUS}\n2. A red coach.",
    f"Here are 3 options:\n- {BUS}\n- A red coach.",
    f"Rewritten caption: {BUS}",
    f"**Rewritten caption:** {BUS}",
    f"### Rewrite:\n{BUS}",
    f"Rewrite this caption: {BUS}",
    f"Assistant: {BUS}",
    f'The rewritten caption is: "{BUS}"',
    f"Option 1: {BUS}",
    f"**{BUS}**",
    f"> {BUS}",
    f"{BUS} (Note: I kept the colour.)",
    f'"{BUS}" I kept the object and its colour.',
    *(f"{opening}{BUS}{closing}" for opening, closing in ('""', "“”", "''", "«»", "„“", "``")),
    # JSON and fences
    f'{{"rewrite": "{BUS}"}}',
    f'```json\n{{\n  "rewrite": "{BUS}"\n}}\n```',
    f'Here is the JSON:\n```json\n{{"rewritten_caption": "{BUS}", "kept": ["red", "bus"]}}\n```\nDone.',
    f'{{"reason": "The bus stays red.", "rewrite": "{BUS}"}}',
    f'{{"paraphrased": "{BUS}"}}',
    f'{{"rewrites": ["{BUS}", "A red coach."]}}',
    f'["{BUS}"]',
    f'[{{"caption": "{BUS}"}}]',
    f"```\n{BUS}\n```",
    f"```text\n{BUS}```",
    # end tokens of ChatML, Llama 2 and 3, Gemma, DeepSeek, Phi
    f"{BUS}<|im_end|>\n<|im_start|>user\nAnother caption",
    f"<|im_start|>assistant\n{BUS}<|im_end|>",
    f"<s> {BUS}</s>",
    f"[/INST] {BUS}</s>[INST] Rewrite",
    f"<|start_header_id|>assistant<|end_header_id|>\n\n{BUS}<|eot_id|>",
    f"{BUS}<end_of_turn>\n<start_of_turn>user",
    f"{BUS}<｜end▁of▁sentence｜>",
    f"{BUS}<|endoftext|>Human: more",
]
HOLDS_NONE = [
    "",
    " \n\t",
    "...",
    "```\n```",
    "I'm sorry, but I can't help with that.",
    "I’m sorry, I can’t assist with that request.",
    "Sorry, I cannot rewrite this caption.",
    "I apologize, but I don't see a caption.",
    "Unfortunately, I am not able to rewrite it.",
    "As an AI language model, I cannot see pictures.",
    "I cannot fulfill this request.",
    "Could you please provide the caption?",
    "Please provide the caption that you would like me to rewrite.",
    "Sure! Please provide the caption.",
    "Sure!",
    "Here is the rewritten caption:",
    "<think>\nOkay, the user wants me to rewrite a caption about a",
    "<think>Red bus.</think>",
    "<think>Red bus.</think>I'm sorry, but I can't help with that.",
    "Okay, the user wants me to rewrite the caption. First, I need to keep",
    "Let me think about this step by step.",
    "<|channel|>analysis<|message|>The user asks for",
    "<|im_end|>",
    '{"rewrite": "A bus that',
    '{"rewrite": null}',
    '{"rewrite": ""}',
    '{"error": "content policy"}',
    '{"error": {"message": "A bus is no bus."}}',
    "{}",
    "[]",
]


@pytest.mark.parametrize("answer", HOLDS_IT)
def test_the_rewrite_is_taken_and_the_rest_dropped(answer):
    assert rewrite_in(answer, "A red bus.") == BUS
    assert rewrite_in(rewrite_in(answer)) == BUS


@pytest.mark.parametrize("answer", HOLDS_NONE)
def test_what_holds_no_rewrite_gives_none(answer):
    assert rewrite_in(answer, "A red bus.") == ""


@pytest.mark.parametrize(
    "caption",
    [
        "A 'bus'.",
        '"Stop" signs beside a road',
        "Here is a bus.",
        "A sign: a dog.",
        "Here are 3 dogs",
        "A version of a car is parked.",
        "3 dogs run.",
        "A Great Dane sleeps on the grass [sic].",
        "Answering machine beeps, then somebody says: hello.",
        "The version of a car that is red",
        "Option traders shout.",
        "A user of a laptop sits down.",
    ],
)
def test_captions_stay_as_they_are(caption):
    assert rewrite_in(caption, caption) == caption


@pytest.mark.parametrize("corpus", ["pedestrians", "scenes", "soundscapes"])
def test_no_caption_of_the_corpora_is_changed(corpus):
    captions = [c for item in corpus_named(corpus).items("val") for c in item.captions]
    assert [c for c in captions if rewrite_in(c) != c] == []


def test_a_caption_that_opens_like_an_apology_may_be_rewritten_so():
    assert rewrite_in("I can't find my red bus.", "I cannot find my red bus.") != ""
    assert rewrite_in("I can't find my red bus.", "A red bus.") == ""


def test_answers_are_bounded():
    assert len(rewrite_in("bus " * 10_000)) == MAX_ANSWER_CHARACTERS


@pytest.mark.parametrize(
    "answer",
    [
        "[" * 200_000 + '"',
        '{"a":' * 200_000,
        "Sure! " * 100_000,
        "the version " * 100_000,
        "<think>" * 100_000,
        '"' * 500_000,
        "```" * 200_000,
    ],
)
def test_hostile_answers_are_read_in_bounded_time(answer):
    started = time.process_time()
    rewrite_in(answer)
    assert time.process_time() - started < 1.0
