// OpenAI's package for Node against a server.
const assert = require("node:assert");
const fs = require("node:fs");
const OpenAI = require("openai").default;

const baseURL = process.env.CLIENTS_URL + "/v1";
const client = new OpenAI({ baseURL, apiKey: process.env.CLIENTS_KEY, maxRetries: 0, timeout: 300_000 });
const messages = [{ role: "user", content: "Name three primary colours." }];
const plain = { model: "default", messages, temperature: 0, max_tokens: 16 };
const city = { type: "string", enum: ["Paris", "Seoul"] };
const parameters = { type: "object", properties: { city }, required: ["city"], additionalProperties: false };
const tools = [{ type: "function", function: { name: "get_weather", parameters } }];
const must = { tools, tool_choice: "required", parallel_tool_calls: false, max_tokens: 128 };

async function main() {
    assert((await client.models.list()).data.length > 0);
    const whole = await client.chat.completions.create(plain);
    const text = whole.choices[0].message.content;
    assert.equal(whole.usage.completion_tokens, 16);
    let streamed = "", usage;
    for await (const chunk of await client.chat.completions.create({ ...plain, stream: true, stream_options: { include_usage: true } })) {
        streamed += chunk.choices[0]?.delta?.content ?? "";
        usage = chunk.usage ?? usage;
    }
    assert.equal(streamed, text);
    assert.equal(usage.completion_tokens, 16);

    const schema = { name: "weather", schema: parameters };
    const said = await client.chat.completions.create({ ...plain, max_tokens: 64, response_format: { type: "json_schema", json_schema: schema } });
    assert(city.enum.includes(JSON.parse(said.choices[0].message.content).city));
    const tops = await client.chat.completions.create({ ...plain, logprobs: true, top_logprobs: 2 });
    assert(tops.choices[0].logprobs.content.every((t) => t.top_logprobs.length === 2));
    const several = await client.chat.completions.create({ ...plain, temperature: 1, seed: 5, n: 2 });
    assert.equal(several.choices.length, 2);

    const call = await client.chat.completions.create({ ...plain, ...must });
    const [made] = call.choices[0].message.tool_calls;
    assert(city.enum.includes(JSON.parse(made.function.arguments).city));
    const final = await client.chat.completions.stream({ ...plain, ...must }).finalChatCompletion();
    assert.equal(final.choices[0].finish_reason, "tool_calls");
    assert.deepEqual(JSON.parse(final.choices[0].message.tool_calls[0].function.arguments), JSON.parse(made.function.arguments));

    const ask = { model: "default", input: "Name three primary colours.", temperature: 0, max_output_tokens: 16 };
    assert.equal((await client.responses.create(ask)).output_text, text);
    let told = "", last;
    for await (const event of await client.responses.create({ ...ask, stream: true })) {
        if (event.type === "response.output_text.delta") told += event.delta;
        last = event.type;
    }
    assert.equal(told, text);
    assert.equal(last, "response.incomplete");

    const speech = process.env.CLIENTS_SPEECH;
    if (fs.existsSync(speech)) {
        const written = await client.audio.transcriptions.create({ model: "whisper-1", file: fs.createReadStream(speech) });
        assert(written.text.includes("your country"));
    }

    await assert.rejects(client.chat.completions.create({ ...plain, model: "gpt-4o" }), OpenAI.NotFoundError);
    await assert.rejects(client.chat.completions.create({ ...plain, temperature: 3 }), OpenAI.BadRequestError);
    const stranger = new OpenAI({ baseURL, apiKey: "ds-wrong", maxRetries: 0 });
    await assert.rejects(async () => stranger.models.list(), OpenAI.AuthenticationError);
    console.log("openai for Node: ok");
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
