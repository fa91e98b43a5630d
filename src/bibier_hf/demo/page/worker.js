// Runs the model, so that the page never waits. The same steps as run.py of `bibier export --part samples`.
import * as ort from "./vendor/ort.wasm.bundle.min.mjs";
import { Tokenizer } from "./vendor/tokenizers.min.mjs";

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: new URL("vendor/ort-wasm-simd-threaded.wasm", import.meta.url).href };

let facts, session, tokenizer;

async function load() {
  facts = await (await fetch("model/export.json")).json();
  if (facts.text && facts.text.tokenizer !== "bytes")
    tokenizer = new Tokenizer(await (await fetch(`model/${facts.text.tokenizer}`)).json(), {});
  const model = await (await fetch(`model/${facts.file}`)).arrayBuffer();
  session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  await run([new Float32Array(16000)], "");  // the first run allocates
}

function int64(values, shape) {
  return new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
}

// Samples (B, W, S) and how many of each window count (B, W).
function windows(clips) {
  const { window, shortest } = facts.samples;
  const longest = Math.max(...clips.map(clip => clip.length));
  const count = Math.max(Math.ceil(longest / window), 1);
  const size = count > 1 ? window : Math.max(longest, shortest);
  const samples = new Float32Array(clips.length * count * size);
  const counts = [];
  clips.forEach((clip, row) => {
    samples.set(clip, row * count * size);
    for (let place = 0; place < count; place++) counts.push(Math.min(Math.max(clip.length - place * size, 0), size));
  });
  return {
    samples: new ort.Tensor("float32", samples, [clips.length, count, size]),
    sample_counts: int64(counts, [clips.length, count]),
  };
}

function tokenIds(text) {
  const { longest, prefix } = facts.text;
  text = prefix + text.toWellFormed();
  if (!tokenizer) return [...Array.from(new TextEncoder().encode(text).slice(0, longest - 1), byte => byte + 3), 1];

  const ids = Array.from(tokenizer.encode(text).ids);
  if (ids.length <= longest) return ids;

  // Special tokens stay at both ends, as in transformers.
  const body = Array.from(tokenizer.encode(text, { add_special_tokens: false }).ids);
  const special = ids.length - body.length;
  let start = 0;
  while (start < special && !body.every((id, place) => ids[start + place] === id)) start++;
  return [...ids.slice(0, start), ...body.slice(0, longest - special), ...ids.slice(start + body.length)];
}

async function run(clips, text) {
  const feeds = windows(clips);
  if (facts.text) {
    const ids = text.trim() ? tokenIds(text) : [];
    const padded = ids.length ? ids : [facts.text.pad];
    const repeat = values => clips.flatMap(() => values);
    feeds.input_ids = int64(repeat(padded), [clips.length, padded.length]);
    feeds.text_attention_mask = int64(repeat(padded.map(() => (ids.length ? 1 : 0))), [clips.length, padded.length]);
  }
  const outputs = await session.run(feeds);
  const rows = output => clips.map((_, row) => {
    const width = output.data.length / clips.length;
    return Array.from(output.data.subarray(row * width, (row + 1) * width));
  });
  return { logits: rows(outputs.logits), not_speech: outputs.not_speech && Array.from(outputs.not_speech.data) };
}

let last = load().then(() => postMessage({ ready: facts }), error => postMessage({ failed: String(error) }));

onmessage = ({ data: { id, clips, text, tokens } }) => {
  last = last.then(async () => {
    try {
      const start = performance.now();
      const answer = tokens === undefined ? await run(clips, text) : { ids: tokenIds(tokens) };
      postMessage({ id, ...answer, seconds: (performance.now() - start) / 1000 });
    } catch (error) {
      postMessage({ id, error: String(error) });
    }
  });
};
