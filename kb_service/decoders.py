"""What computes the LLM's next token: torch for any causal language model, OpenVINO for the embedded one on the CPU.

A decoder holds the keys and values of one batch. A step continues chosen rows of them, so that histories which several
samples share are computed once, and those that ended cost nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from semlink.runtime import Precision, compile_for_cpu, load_openvino

KeysValues = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""Of each layer, float32 [rows, heads, num_tokens, size]."""


class Decoder(Protocol):
    """Next tokens of a batch. Used by one thread at a time."""

    def begin(self, memory: Sequence[KeysValues]) -> None:
        """Begin a batch after prefixes of one length, a row each; none: after nothing, with one row."""
        ...

    def step(
        self,
        rows: Sequence[int],
        tokens: torch.Tensor,
        positions: torch.Tensor,
        sees: torch.Tensor,
    ) -> torch.Tensor:
        """Append tokens to rows of the memory, which take the place of all its rows; logits after the last token.

        ``rows`` may name a row several times or not at all. ``tokens``, ``positions`` [len(rows), n], int64; ``sees``
        [len(rows), n, num_tokens + n], bool: which places of the memory and of the new ones each token attends to.
        Returns [len(rows), vocabulary], float32, valid until the next step.
        """
        ...

    def memory(self) -> KeysValues:
        """Keys and values of all rows now."""
        ...


class TorchDecoder:
    """A causal language model of transformers, wherever its weights lie."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._device = model.device
        self._cache: Any = None
        self._num_rows = 0

    def begin(self, memory: Sequence[KeysValues]) -> None:
        """As :meth:`Decoder.begin`."""
        from transformers import DynamicCache

        self._cache = DynamicCache(config=self._model.config)
        self._num_rows = max(1, len(memory))
        for layer, of_rows in enumerate(zip(*memory, strict=True)):
            keys, values = (torch.cat([pair[part] for pair in of_rows]) for part in (0, 1))
            self._cache.update(keys, values, layer)

    @torch.inference_mode()
    def step(
        self,
        rows: Sequence[int],
        tokens: torch.Tensor,
        positions: torch.Tensor,
        sees: torch.Tensor,
    ) -> torch.Tensor:
        """As :meth:`Decoder.step`."""
        if list(rows) != list(range(self._num_rows)) and self._cache.get_seq_length():
            self._cache.batch_select_indices(torch.tensor(rows, device=self._device))
        self._num_rows = len(rows)
        logits: torch.Tensor = self._model(
            input_ids=tokens.to(self._device),
            attention_mask=sees[:, None].to(self._device),
            position_ids=positions.to(self._device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits.float()

    def memory(self) -> KeysValues:
        """As :meth:`Decoder.memory`."""
        return tuple((layer.keys, layer.values) for layer in self._cache.layers)


class OpenVinoDecoder:
    """A model of Llama's kind from its folder, in OpenVINO's graph with the keys and values as its state.

    Built from the float32 weights at every start (about two seconds, nothing is stored). Several times the speed of
    torch: no row is copied when rows are chosen, and a step is one call. ``num_threads`` of one step.
    """

    def __init__(self, folder: Path, *, num_threads: int, precision: Precision = "f32") -> None:
        from safetensors.torch import load_file

        config = json.loads((folder / "config.json").read_text())
        weights = {name: w.numpy() for name, w in load_file(folder / "model.safetensors").items()}
        self._compiled: Any = compile_for_cpu(
            llama(config, weights), precision, num_threads, KV_CACHE_PRECISION=precision
        )
        self._layers = range(config["num_hidden_layers"])
        self.begin([])

    def begin(self, memory: Sequence[KeysValues]) -> None:
        """As :meth:`Decoder.begin`."""
        # A request gives the memory of its largest batch back with itself only.
        self._request: Any = self._compiled.create_infer_request()
        states = {state.name: state for state in self._request.query_state()}
        self._states = [(states[f"keys {n}"], states[f"values {n}"]) for n in self._layers]
        if memory:
            for layer, of_rows in enumerate(zip(*memory, strict=True)):
                for part, state in enumerate(self._states[layer]):
                    held = torch.cat([pair[part] for pair in of_rows])
                    state.state = load_openvino().Tensor(held.numpy())

    def step(
        self,
        rows: Sequence[int],
        tokens: torch.Tensor,
        positions: torch.Tensor,
        sees: torch.Tensor,
    ) -> torch.Tensor:
        """As :meth:`Decoder.step`."""
        inputs = {
            "tokens": tokens.numpy(),
            "positions": positions.numpy(),
            "sees": sees[:, None].numpy(),
            "rows": np.asarray(rows, dtype=np.int32),
        }
        (logits,) = self._request.infer(inputs, share_inputs=True, share_outputs=True).values()
        return torch.from_numpy(logits)

    def memory(self) -> KeysValues:
        """As :meth:`Decoder.memory`."""
        return tuple(
            (torch.from_numpy(keys.state.data.copy()), torch.from_numpy(values.state.data.copy()))
            for keys, values in self._states
        )


def llama(config: dict[str, Any], weights: dict[str, np.ndarray[Any, Any]]) -> Any:
    """A decoder of Llama's kind (Touvron et al. 2023, arXiv 2302.13971) as an OpenVINO model with state.

    RMS norms before attention and before the gated SiLU network, rotary positions, grouped queries, no biases, tied
    embeddings: what ``config`` of the embedded model says. ``weights`` by transformers' names; the model reads their
    memory. Its operations stand as OpenVINO's CPU plugin merges them (norm, rotation, attention with state).
    """
    openvino = load_openvino()
    op = openvino.opset13
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size, eps = config["head_dim"], config["rms_norm_eps"]
    theta = config["rope_parameters"]["rope_theta"]

    def whole(*values: int) -> Any:
        return op.constant(np.array(values, dtype=np.int64))

    def scalar(value: float) -> Any:
        return op.constant(np.float32(value))

    def parameter(name: str, shape: list[int], kind: Any) -> Any:
        node = op.parameter(shape, kind, name=name)
        node.output(0).get_tensor().set_names({name})
        return node

    def weight(name: str) -> Any:
        return op.constant(weights[name], shared_memory=True)

    def linear(x: Any, name: str) -> Any:
        return op.matmul(x, weight(f"{name}.weight"), transpose_a=False, transpose_b=True)

    def norm(x: Any, name: str) -> Any:
        mean = op.reduce_mean(op.power(x, scalar(2)), whole(-1), keep_dims=True)
        scale = op.divide(scalar(1), op.sqrt(op.add(mean, scalar(eps))))
        return op.multiply(op.multiply(x, scale), weight(f"{name}.weight"))

    def by_head(x: Any, number: int) -> Any:
        """[rows, n, heads · size] → [rows, heads, n, size]."""
        return op.transpose(op.reshape(x, whole(0, 0, number, size), True), whole(0, 2, 1, 3))

    def rotated(x: Any) -> Any:
        first = op.slice(x, whole(0), whole(size // 2), whole(1), whole(3))
        second = op.slice(x, whole(size // 2), whole(size), whole(1), whole(3))
        turned = op.concat([op.multiply(second, scalar(-1)), first], -1)
        return op.add(op.multiply(x, cosine), op.multiply(turned, sine))

    def held(new: Any, name: str) -> Any:
        """What the state's chosen rows hold and then ``new``; the state becomes that."""
        shape = openvino.PartialShape([-1, groups, -1, size])
        info = openvino.op.util.VariableInfo()
        info.data_shape, info.data_type, info.variable_id = shape, openvino.Type.f32, name
        variable = openvino.op.util.Variable(info)
        past = op.gather(openvino.opset6.read_value(nothing, variable), chosen, op.constant(0))
        both = op.concat([past, new], 2)
        assigned.append(openvino.opset6.assign(both, variable))
        return both

    def for_queries(x: Any) -> Any:
        """[rows, groups, n, size] → [rows, heads, n, size]: queries share their group's."""
        length = op.gather(op.shape_of(x), whole(0, 1), op.constant(0))
        rest = op.gather(op.shape_of(x), whole(2, 3), op.constant(0))
        wide = op.concat([length, whole(heads // groups), rest], 0)
        repeated = op.broadcast(op.unsqueeze(x, whole(2)), wide, broadcast_spec="BIDIRECTIONAL")
        return op.reshape(repeated, whole(0, heads, -1, size), True)

    tokens = parameter("tokens", [-1, -1], openvino.Type.i64)
    positions = parameter("positions", [-1, -1], openvino.Type.i64)
    sees = parameter("sees", [-1, 1, -1, -1], openvino.Type.boolean)
    chosen = parameter("rows", [-1], openvino.Type.i32)
    assigned: list[Any] = []

    num_rows = op.gather(op.shape_of(tokens), whole(0), op.constant(0))
    nothing = op.broadcast(scalar(0), op.concat([num_rows, whole(groups, 0, size)], 0))
    frequencies = (theta ** (-np.arange(0, size, 2) / size)).astype(np.float32)
    angle = op.multiply(
        op.convert(op.unsqueeze(positions, whole(2)), "f32"), op.constant(frequencies)
    )
    angles = op.concat([angle, angle], -1)
    cosine, sine = (op.unsqueeze(f(angles), whole(1)) for f in (op.cos, op.sin))

    x = op.gather(weight("model.embed_tokens.weight"), tokens, op.constant(0))
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        y = norm(x, f"{name}.input_layernorm")
        queries, keys, values = (
            by_head(linear(y, f"{name}.self_attn.{part}_proj"), number)
            for part, number in (("q", heads), ("k", groups), ("v", groups))
        )
        attended = op.scaled_dot_product_attention(
            rotated(queries),
            for_queries(held(rotated(keys), f"keys {layer}")),
            for_queries(held(values, f"values {layer}")),
            sees,
            scalar(size**-0.5),
        )
        joined = op.reshape(
            op.transpose(attended, whole(0, 2, 1, 3)), whole(0, 0, heads * size), True
        )
        x = op.add(x, linear(joined, f"{name}.self_attn.o_proj"))
        y = norm(x, f"{name}.post_attention_layernorm")
        gate = op.swish(linear(y, f"{name}.mlp.gate_proj"))
        gated = op.multiply(gate, linear(y, f"{name}.mlp.up_proj"))
        x = op.add(x, linear(gated, f"{name}.mlp.down_proj"))
    last = op.gather(norm(x, "model.norm"), op.constant(-1), op.constant(1))
    logits = op.matmul(
        last, weight("model.embed_tokens.weight"), transpose_a=False, transpose_b=True
    )
    return openvino.Model(
        [op.result(logits)], assigned, [tokens, positions, sees, chosen], config["model_type"]
    )
