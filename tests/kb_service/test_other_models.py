"""Other language models: tiny random checkpoints of GPT-2's and of Llama's kind, and the settings that name them."""

import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from kb_service.llm import MODEL_NAME, Dialogue, GenerationRequest, identity_of, load_causal_lm
from kb_service.prompting import EXAMPLES, STRATEGIES
from kb_service.rewriting import Rewriter, Task
from kb_service.sources import load_generator, model_name
from semlink.errors import InvalidField, NotFound
from semlink.settings import Settings

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _tokenizer(folder, template=None, bos=None):
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([text for pair in EXAMPLES for text in pair] * 3, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|endoftext|>", bos_token=bos, pad_token="<|endoftext|>"
    )
    if template:
        fast.add_special_tokens({"additional_special_tokens": special[1:]})
        fast.chat_template = template
    fast.save_pretrained(folder)
    return len(fast)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-gpt2")
    size = _tokenizer(folder)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=size, n_positions=1024, n_embd=32, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-llama")
    size = _tokenizer(folder, CHATML)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=["gpt2", "llama"])
def folder(request):
    return request.getfixturevalue(request.param)


def test_it_agrees_with_the_model_run_plainly(folder):
    """Almost greedy, of every strategy in one batch, against the model called on the whole text by itself."""
    llm = load_causal_lm(str(folder))
    llm.prepare([s.shared for s in STRATEGIES.values()])
    asked = [Dialogue(s.shared, s.ask("A red bus."), 2, 1e-4, 0, 6) for s in STRATEGIES.values()]
    for dialogue, texts in zip(asked, llm.answer(asked), strict=True):
        text = llm._format.beginning(dialogue.shared) + llm._format.request(
            dialogue.shared, dialogue.ask
        )
        tokens, expected = llm._tokens(text), []
        with torch.inference_mode():
            for _ in range(6):
                best = int(
                    llm._decoder._model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()
                )
                if llm._ends[best]:
                    break
                expected.append(best)
                tokens.append(best)
        assert texts == [llm._text(expected)] * 2


def test_it_rewrites_by_every_strategy_and_repeats_itself(folder):
    rewriter = Rewriter(
        load_causal_lm(str(folder)), lambda texts: torch.ones(len(texts), 4).numpy() / 2
    )
    tasks = [
        Task("A man in a red jacket.", 4, 0.9, seed, name) for seed, name in enumerate(STRATEGIES)
    ]
    first, again = rewriter(tasks), rewriter(tasks)
    assert first == again
    assert all(found.rewrites for found in first)
    assert first[0] != first[1]


def test_its_chat_template_is_used(llama, gpt2):
    few_shot = STRATEGIES["few-shot"]
    ask = few_shot.ask("A bus.")
    assert (
        load_causal_lm(str(llama))._format.request(few_shot.shared, ask).startswith("<|im_start|>")
    )
    assert load_causal_lm(str(gpt2))._format.request(few_shot.shared, ask) == f"{ask}\nRewrite:"


def test_the_context_bounds_a_prompt(gpt2):
    llm = load_causal_lm(str(gpt2))
    prefix = llm.prefix("A bus. " * 50)
    fits = GenerationRequest("a " * 40, 1, 1.0, 0, 8)
    assert llm.generate(prefix, [fits])
    with pytest.raises(InvalidField, match="allowed: 1…"):
        llm.generate(prefix, [GenerationRequest("zq " * 700, 1, 1.0, 0, 8)])


def test_a_text_begins_as_the_tokenizer_begins_it(tmp_path):
    from tokenizers.processors import TemplateProcessing

    size = _tokenizer(tmp_path, bos="<|im_start|>")
    config = GPT2Config(vocab_size=size, n_positions=64, n_embd=16, n_layer=1, n_head=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    first = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", first)]
    )
    tokenizer.save_pretrained(tmp_path)
    llm = load_causal_lm(str(tmp_path))
    assert llm._opening("A bus")[0] == first
    assert llm._opening("A bus")[1:] == llm._tokens("A bus")
    assert llm.prefix("A bus").num_tokens == len(llm._tokens("A bus")) + 1


def test_a_model_whose_memory_slides_is_refused(tmp_path):
    size = _tokenizer(tmp_path)
    config = MistralConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=16,
    )
    MistralForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(InvalidField, match="endpoint") as caught:
        load_causal_lm(str(tmp_path))
    assert caught.value.field == "SEMLINK_LLM_MODEL"


def test_a_wrong_mask_would_be_noticed(gpt2):
    llm = load_causal_lm(str(gpt2))
    model = llm._decoder._model
    llm.check(model)
    step = llm._decoder.step

    def without_padding_mask(rows, tokens, positions, sees):
        num = sees.shape[-1]
        everything = torch.ones(tokens.shape[1], num, dtype=torch.bool).tril(num - tokens.shape[1])
        return step(rows, tokens, positions, everything.expand_as(sees))

    llm._decoder.step = without_padding_mask
    with pytest.raises(InvalidField, match="something else than alone"):
        llm.check(model)


def test_a_folder_is_known_by_its_content(gpt2, llama, tmp_path):
    assert identity_of(str(gpt2)) == identity_of(str(gpt2))
    assert identity_of(str(gpt2)) != identity_of(str(llama))
    copy = tmp_path / gpt2.name
    copy.mkdir()
    for path in gpt2.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert identity_of(str(copy)) == identity_of(str(gpt2))
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert identity_of(str(copy)) != identity_of(str(gpt2))


def test_a_name_is_known_with_its_revision():
    assert identity_of("gpt2") == "hub:gpt2@main"
    assert identity_of("gpt2", "abc") == "hub:gpt2@abc"


def test_what_is_no_model_is_said(tmp_path):
    with pytest.raises(NotFound, match="cannot be loaded") as caught:
        load_causal_lm(str(tmp_path))
    assert caught.value.field == "SEMLINK_LLM_MODEL"


def test_settings_choose_the_model(gpt2):
    local = {"llm_model": str(gpt2)}
    assert model_name(Settings()) == MODEL_NAME
    assert model_name(Settings(profile="hub")) == MODEL_NAME
    assert model_name(Settings(profile="hub", **local)) == identity_of(str(gpt2))
    assert model_name(Settings(llm="hub", **local)) == identity_of(str(gpt2))
    assert model_name(Settings(llm="embedded", **local)) == MODEL_NAME
    endpoint = Settings(llm="endpoint", llm_url="http://user:pw@host:1/v1/", llm_model="m")
    assert model_name(endpoint) == "endpoint:host:1/v1:m"
    assert load_generator(endpoint).name == "endpoint:host:1/v1:m"
    assert load_generator(Settings(llm="hub", **local)).name == identity_of(str(gpt2))


@pytest.mark.parametrize(
    ("values", "variable"),
    [
        ({"llm": "hub"}, "SEMLINK_LLM_MODEL"),
        ({"llm": "endpoint", "llm_url": "http://x/v1"}, "SEMLINK_LLM_MODEL"),
        ({"llm": "endpoint", "llm_model": "m"}, "SEMLINK_LLM_URL"),
        ({"llm_url": "ftp://x"}, "SEMLINK_LLM_URL"),
        ({"llm": "magic"}, "SEMLINK_LLM"),
    ],
)
def test_settings_that_lack_something_are_named(values, variable):
    with pytest.raises(InvalidField) as caught:
        model_name(Settings(**values))
    assert caught.value.field == variable


def test_the_key_of_an_endpoint_is_handed_on_but_not_shown():
    settings = Settings(llm="endpoint", llm_url="http://x/v1", llm_model="m", llm_api_key="s3cret")
    for shown in (repr(settings), str(settings), repr(load_generator(settings))):
        assert "s3cret" not in shown
    code = "from semlink.settings import Settings; print(Settings().llm_api_key.get_secret_value())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=settings.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "s3cret"
