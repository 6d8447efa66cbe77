"""A server of models on loopback: what OpenAI and Anthropic answer, as their clients read it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from typing import Any, Final

from web_servers import Handler, serving

BROKEN: Final = "broken"  # the model that is answered with an error
_USAGE: Final = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
_ERROR: Final = {"error": {"message": "no such model", "type": "invalid_request_error"}}
_TOOL_CALL: Final = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Zürich"}'},
}


class _Handler(Handler):
    def respond(self, body: bytes) -> None:
        asked = json.loads(body)
        if asked["model"] == BROKEN:
            self._answer(400, _ERROR)
            return
        reply = _REPLIES[self.path](asked)
        if isinstance(reply, list):
            self.answer(200, b"".join(map(_event, reply)), "text/event-stream")
        else:
            self._answer(200, reply)

    def _answer(self, status: int, reply: Any) -> None:
        self.answer(status, json.dumps(reply).encode(), "application/json")


def _event(data: Any) -> bytes:
    """Write a server-sent event; Anthropic's have a name."""
    name = f"event: {data['type']}\n" if isinstance(data, dict) and "type" in data else ""
    text = data if isinstance(data, str) else json.dumps(data)
    return f"{name}data: {text}\n\n".encode()


def _chat(asked: dict[str, Any]) -> Any:
    if asked.get("stream"):
        return [*_chunks(asked["model"]), "[DONE]"]
    message: dict[str, Any] = {"role": "assistant", "content": "Grüezi"}
    reason = "stop"
    if asked.get("tools"):
        message, reason = (
            {"role": "assistant", "content": None, "tool_calls": [_TOOL_CALL]},
            "tool_calls",
        )
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": f"{asked['model']}-2024",
        "choices": [choice],
        "usage": _USAGE,
    }


def _chunks(model: str) -> Iterable[dict[str, Any]]:
    common = {"id": "chatcmpl-2", "object": "chat.completion.chunk", "created": 1, "model": model}
    deltas = [{"role": "assistant", "content": ""}, {"content": "Grü"}, {"content": "ezi"}, {}]
    for number, delta in enumerate(deltas, 1):
        reason = "stop" if number == len(deltas) else None
        yield {**common, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    yield {**common, "choices": [], "usage": _USAGE}


def _embeddings(asked: dict[str, Any]) -> Any:
    vectors = [{"object": "embedding", "index": 0, "embedding": [0.25, -1.5, 1e-7]}]
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    return {"object": "list", "data": vectors, "model": asked["model"], "usage": usage}


def _messages(asked: dict[str, Any]) -> Any:
    usage = {"input_tokens": 7, "output_tokens": 3}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": asked["model"]}
    text = {"type": "text", "text": "Grüezi"}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    if not asked.get("stream"):
        return {**message, **end, "content": [text], "usage": usage}
    nothing = {"stop_reason": None, "stop_sequence": None}
    return [
        {"type": "message_start", "message": {**message, **nothing, "content": [], "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {**text, "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {**text, "type": "text_delta"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]


_REPLIES: Final = {
    "/v1/chat/completions": _chat,
    "/v1/embeddings": _embeddings,
    "/v1/messages": _messages,
}


def model_server() -> contextlib.AbstractContextManager[str]:
    """Serve, and give the address."""
    return serving(_Handler)
