"""OpenAI's package for Python against a server: what it asks for arrives, and what comes back is of its types."""

import base64
import json
import os
import pathlib

import openai

URL, KEY = os.environ["CLIENTS_URL"] + "/v1", os.environ["CLIENTS_KEY"]
client = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=300)
HELLO = [{"role": "user", "content": "Name three primary colours."}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Seoul"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "The weather", "parameters": WEATHER}}


def chat(**more):
    return client.chat.completions.create(**{"model": "default", "messages": HELLO, "temperature": 0, "max_tokens": 16, **more})


def raises(kind, status, work):
    try:
        work()
    except kind as e:
        assert e.status_code == status and isinstance(e.body, dict) and e.body["message"], e
    else:
        raise AssertionError(f"no {kind.__name__}")


models = [m.id for m in client.models.list()]
assert models, models

# chat: whole, streamed with usage
whole = chat()
assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 16, whole
chunks = list(chat(stream=True, stream_options={"include_usage": True}))
text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
assert text == whole.choices[0].message.content and chunks[-1].usage.completion_tokens == 16, (text, whole)
with client.chat.completions.stream(model="default", messages=HELLO, temperature=0, max_tokens=16) as stream:
    pieces = [event.delta for event in stream if event.type == "content.delta"]
assert "".join(pieces) == text, pieces

# a schema, seeds, several answers, stops, log-probabilities
schema = {"name": "weather", "strict": True, "schema": WEATHER}
said = chat(response_format={"type": "json_schema", "json_schema": schema}, max_tokens=64).choices[0].message.content
assert json.loads(said)["city"] in ("Paris", "Seoul"), said
first, again = (chat(temperature=1, seed=5, n=2) for _ in range(2))
assert [c.message.content for c in first.choices] == [c.message.content for c in again.choices]
assert len(first.choices) == 2 and first.choices[0].message.content != first.choices[1].message.content
word = text.split()[2]
stopped = chat(stop=[word])
assert stopped.choices[0].finish_reason == "stop" and word not in stopped.choices[0].message.content, stopped
tokens = chat(logprobs=True, top_logprobs=3).choices[0].logprobs.content
assert len(tokens) == 16 and all(len(t.top_logprobs) == 3 and t.logprob <= 0 for t in tokens)

# functions: required, streamed, answered
call = chat(tools=[TOOL], tool_choice="required", parallel_tool_calls=False, max_tokens=128).choices[0]
assert call.finish_reason == "tool_calls" and call.message.content is None, call
function = call.message.tool_calls[0].function
assert function.name == "get_weather" and json.loads(function.arguments)["city"] in ("Paris", "Seoul"), function
with client.chat.completions.stream(
    model="default", messages=HELLO, temperature=0, max_tokens=128, tools=[TOOL], tool_choice="required", parallel_tool_calls=False
) as stream:
    final = stream.get_final_completion()
assert json.loads(final.choices[0].message.tool_calls[0].function.arguments) == json.loads(function.arguments), final
history = [*HELLO, call.message.model_dump(exclude_none=True)]
history.append({"role": "tool", "tool_call_id": call.message.tool_calls[0].id, "content": "18 degrees"})
assert chat(messages=history, tools=[TOOL]).choices

# responses
response = client.responses.create(model="default", input="Name three primary colours.", temperature=0, max_output_tokens=16)
assert response.output_text == text and response.status == "incomplete" and response.usage.output_tokens == 16, response
events = list(client.responses.create(model="default", input="Name three primary colours.", temperature=0, max_output_tokens=16, stream=True))
assert events[0].type == "response.created" and events[-1].type == "response.incomplete", [e.type for e in events]
assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == text
assert [e.sequence_number for e in events] == list(range(len(events)))
flat = {"type": "function", **TOOL["function"], "strict": True}
with client.responses.stream(
    model="default", input="Weather in Paris?", temperature=0, tools=[flat], tool_choice="required", parallel_tool_calls=False
) as stream:
    response = stream.get_final_response()
assert response.output[0].type == "function_call" and json.loads(response.output[0].arguments)["city"], response
answer = {"type": "function_call_output", "call_id": response.output[0].call_id, "output": "18 degrees"}
items = [{"role": "user", "content": "Weather in Paris?"}, response.output[0].to_dict(), answer]
assert client.responses.create(model="default", input=items, tools=[flat], max_output_tokens=8).output

# plain continuations
assert "Paris" in client.completions.create(model="default", prompt="The capital of France is", max_tokens=8, temperature=0).choices[0].text

# speech, in all forms
speech = pathlib.Path(os.environ["CLIENTS_SPEECH"])
if speech.exists():
    def write(form, **more):
        with speech.open("rb") as file:
            return client.audio.transcriptions.create(model="whisper-1", file=file, response_format=form, **more)

    for form in ("json", "text", "srt", "vtt", "verbose_json"):
        told = write(form)
        assert "your country" in (told if isinstance(told, str) else told.text), (form, told)
    words = write("verbose_json", timestamp_granularities=["word", "segment"])
    assert len(words.words) > 15 and words.segments and words.duration > 10, words
    told = list(write("json", stream=True))
    assert told[-1].type == "transcript.text.done" and "your country" in told[-1].text, told
    sound = {"type": "input_audio", "input_audio": {"data": base64.b64encode(speech.read_bytes()).decode(), "format": "wav"}}
    assert chat(messages=[{"role": "user", "content": [sound]}]).choices
else:
    print(f"skipped: {speech} is not there")

# errors in the client's classes
raises(openai.NotFoundError, 404, lambda: chat(model="gpt-4o"))
raises(openai.NotFoundError, 404, lambda: client.embeddings.create(model="default", input="a dog"))
raises(openai.BadRequestError, 400, lambda: chat(temperature=3))
raises(openai.BadRequestError, 400, lambda: chat(messages=[]))
raises(openai.BadRequestError, 400, lambda: client.responses.create(model="default", input="x", store=True))
raises(openai.AuthenticationError, 401, lambda: openai.OpenAI(base_url=URL, api_key="ds-wrong", max_retries=0).models.list())
print("openai for Python: ok", openai.__version__)
