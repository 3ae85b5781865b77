// Asks a server by OpenAI's own client: node openai.mjs URL < conversations.json; an array a conversation, of
// [whole, streamed] a turn. The package is looked for where NODE_PATH says, or in a node_modules above this file.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const OpenAI = createRequire(import.meta.url)("openai").default;
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "key", maxRetries: 0 });
const conversations = JSON.parse(readFileSync(0, "utf8"));
const answers = [];
for (const turns of conversations) {
  const messages = [];
  const said = [];
  for (const content of turns) {
    messages.push({ role: "user", content });
    const wanted = { model: "base", messages, temperature: 0, max_tokens: 12, user: "ana", store: false };
    const whole = await client.chat.completions.create(wanted);
    let streamed = "";
    const stream = await client.chat.completions.create({
      ...wanted,
      stream: true,
      stream_options: { include_usage: true },
    });
    let usage = null;
    for await (const chunk of stream) {
      streamed += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    if (usage.total_tokens !== whole.usage.total_tokens) throw new Error("usage differs");
    messages.push(whole.choices[0].message);
    said.push([whole.choices[0].message.content, streamed]);
  }
  answers.push(said);
}
process.stdout.write(JSON.stringify(answers));
