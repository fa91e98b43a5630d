// The page: a file, the microphone, or text -> emotions, in this browser alone.

const RATE = 16000;
const CHUNK_S = 4;  // seconds of a recording to judge at once
const HOP_S = 2;
const LIVE_S = 0.5;  // seconds between two answers to the microphone
const LONGEST_S = 20 * 60;
const LEVEL_S = 0.05;

const find = id => document.getElementById(id);
const page = await (await fetch("page.json")).json();
const languages = Object.keys(page.texts);
const wanted = new URLSearchParams(location.search).get("lang") || navigator.language.slice(0, 2);
let language = languages.includes(wanted) ? wanted : languages[0];

let clip = null;      // samples of the file, or of the microphone so far
let pieces = [];      // {start, end, scores} of the recording, in seconds
let answer = null;    // {scores, reason, silent}
let live = null;      // what belongs to the open microphone
let busy = 0;
let status = ["loading"];
let turn = 0;         // number of the latest request; earlier ones are out of date

// ---- The model

const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();
let facts = null;

const ready = new Promise((resolve, reject) => {
  worker.onmessage = ({ data }) => {
    if (data.ready) { facts = data.ready; return resolve(facts); }
    if (data.failed) return reject(new Error(data.failed));
    const { resolve: done, reject: fail } = waiting.get(data.id);
    waiting.delete(data.id);
    data.error ? fail(new Error(data.error)) : done(data);
  };
  worker.onerror = event => reject(new Error(event.message));
});

function ask(request) {
  return new Promise((resolve, reject) => {
    const id = crypto.randomUUID();
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, ...request });
  });
}

function softmax(logits) {
  const scaled = logits.map(value => value / facts.answers.temperature);
  const most = Math.max(...scaled);
  const powers = scaled.map(value => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map(value => value / sum);
}

const mean = rows => rows[0].map((_, place) => rows.reduce((sum, row) => sum + row[place], 0) / rows.length);

// Level of the loudest 50 ms, in dB of full scale, without a constant offset.
function level(samples) {
  const offset = samples.reduce((sum, value) => sum + value, 0) / samples.length;
  const size = samples.length < LEVEL_S * RATE ? samples.length : LEVEL_S * RATE;
  let loudest = 0;
  for (let start = 0; start + size <= samples.length; start += size) {
    let power = 0;
    for (let place = start; place < start + size; place++) power += (samples[place] - offset) ** 2;
    loudest = Math.max(loudest, power / size);
  }
  return 10 * Math.log10(Math.max(loudest, 1e-12));
}

// Why an answer should not be trusted, or null; the order of the package.
function doubt(samples, scores, notSpeech) {
  if (samples) {
    const { shortest_s, quietest_db, not_speech_threshold: limit } = facts.samples;
    if (samples.length / RATE < shortest_s) return "too short";
    if (level(samples) < quietest_db) return "too quiet";
    if (notSpeech !== undefined && notSpeech >= Math.log(limit / (1 - limit))) return "no speech";
  }
  return Math.max(...scores) < (facts.answers.least_confidence || 0) ? "low confidence" : null;
}

const isHopeless = reason => Boolean(reason) && reason !== "low confidence";

async function judge(samples, text) {
  const result = await ask({ clips: [samples || new Float32Array(0)], text });
  const scores = softmax(result.logits[0]);
  return { scores, reason: doubt(samples, scores, result.not_speech?.[0]), seconds: result.seconds };
}

// A long recording in overlapping chunks: one mean for each hop, and one over all.
async function judgeLong(samples, number) {
  const chunks = [];
  for (let start = 0; start === 0 || (start + CHUNK_S - HOP_S) * RATE < samples.length; start += HOP_S) {
    const part = samples.slice(start * RATE, (start + CHUNK_S) * RATE);
    const result = await judge(part, "");
    if (number !== turn) return null;
    chunks.push({ start, end: start + part.length / RATE, ...result });
    if (chunks.length % 4 === 0) show(["progress", Math.min(1, (start + CHUNK_S) * RATE / samples.length)]);
  }
  const duration = samples.length / RATE;
  pieces = [];
  const shares = [];
  for (let start = 0; start < duration; start += HOP_S) {
    const end = Math.min(start + HOP_S, duration);
    const over = chunks.filter(chunk => chunk.start < end && chunk.end > start);
    const hopeless = over.every(chunk => isHopeless(chunk.reason));
    const scores = mean(over.map(chunk => chunk.scores));
    shares.push(scores.map(score => score * (end - start) / duration));
    pieces.push({ start, end, scores: hopeless ? null : scores });
  }
  const scores = shares[0].map((_, label) => shares.reduce((sum, share) => sum + share[label], 0));
  const unsure = chunks.filter(chunk => chunk.reason);
  return {
    scores,
    reason: 2 * unsure.length >= chunks.length && unsure.length ? unsure[0].reason : null,
    seconds: chunks.reduce((sum, chunk) => sum + chunk.seconds, 0),
  };
}

// A clip is judged at once, and its words may come with it.
const isLong = () => Boolean(clip) && clip.length > page.longest_s * RATE;

async function analyze() {
  const number = ++turn;
  const text = page.reads_text ? find("text").value : "";
  if (live) return;
  if (!clip && !text.trim()) { answer = null; pieces = []; return draw(); }

  busy++;
  show(["working"]);
  try {
    const long = isLong();
    const found = long ? await judgeLong(clip, number) : await judge(clip, text);
    if (number !== turn || !found) return;
    if (clip && !long) pieces = [{ start: 0, end: clip.length / RATE, scores: isHopeless(found.reason) ? null : found.scores }];
    answer = found;
    status = clip ? ["speed", clip.length / RATE, found.seconds] : ["ready"];
    if (long && text.trim()) complain("text_unused");
  } catch (error) {
    complain("failed", error.message);
  } finally {
    busy--;
    draw();
  }
}

// ---- Sound

function joined(parts) {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => { all.set(part, at); return at + part.length; }, 0);
  return all;
}

async function resample(samples, rate) {
  if (rate === RATE || !samples.length) return samples;
  const context = new OfflineAudioContext(1, Math.max(1, Math.round(samples.length * RATE / rate)), RATE);
  const source = context.createBufferSource();
  source.buffer = context.createBuffer(1, samples.length, rate);
  source.buffer.copyToChannel(samples, 0);
  source.connect(context.destination);
  source.start();
  return (await context.startRendering()).getChannelData(0);
}

async function decode(file) {
  const context = new OfflineAudioContext(1, 1, RATE);
  const buffer = await context.decodeAudioData(await file.arrayBuffer());  // resamples to the rate of the context
  const samples = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++)
    buffer.getChannelData(channel).forEach((value, place) => { samples[place] += value / buffer.numberOfChannels; });
  return samples;
}

function forget() {
  URL.revokeObjectURL(find("player").src);
  find("player").removeAttribute("src");
  clip = null;
  pieces = [];
  answer = null;
}

async function open(file) {
  await stop();
  complain(null);
  let samples;
  try {
    samples = await decode(file);
  } catch {
    return complain("unreadable");
  }
  if (samples.length > LONGEST_S * RATE) return complain("too_long", String(LONGEST_S / 60));
  forget();
  clip = samples;
  find("player").src = URL.createObjectURL(file);
  draw();
  await analyze();
}

async function listen() {
  complain(null);
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch {
    return complain("no_microphone");
  }
  turn++;
  forget();
  let context, source;
  try {
    context = new AudioContext({ sampleRate: RATE });
    source = context.createMediaStreamSource(stream);
  } catch {  // a browser that does not resample microphones
    context = new AudioContext();
    source = context.createMediaStreamSource(stream);
  }
  await context.audioWorklet.addModule("recorder.js");
  const recorder = new AudioWorkletNode(context, "recorder");
  source.connect(recorder);
  clip = new Float32Array(0);
  const heard = [];
  recorder.port.onmessage = ({ data }) => heard.push(data);
  const session = { stream, context, timer: 0, working: false };
  session.timer = setInterval(async () => {
    const fresh = await resample(joined(heard.splice(0)), context.sampleRate);
    if (live !== session) return;
    const before = clip.length / RATE;
    clip = joined([clip, fresh]);
    if (clip.length > LONGEST_S * RATE) return stop();
    const end = clip.length / RATE;
    if (session.working || !clip.length) return drawWave();
    session.working = true;
    try {
      const recent = clip.slice(-CHUNK_S * RATE);
      const found = await judge(recent, "");
      if (live !== session) return;
      const silent = level(clip.slice(-RATE)) < facts.samples.quietest_db;
      answer = { ...found, silent };
      pieces.push({ start: pieces.at(-1)?.end ?? before, end, scores: silent || isHopeless(found.reason) ? null : found.scores });
      status = ["live", recent.length / RATE, found.seconds];
    } catch (error) {
      complain("failed", error.message);
    } finally {
      session.working = false;
      draw();
    }
  }, 1000 * LIVE_S);
  live = session;
  draw();
}

async function stop() {
  if (!live) return;
  clearInterval(live.timer);
  live.stream.getTracks().forEach(track => track.stop());
  const context = live.context;
  live = null;
  await context.close();
  if (clip && clip.length) {
    find("player").src = URL.createObjectURL(new Blob([wav(clip)], { type: "audio/wav" }));
    await analyze();
  }
}

function wav(samples) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const word = (at, letters) => [...letters].forEach((letter, place) => view.setUint8(at + place, letter.charCodeAt(0)));
  word(0, "RIFF"); view.setUint32(4, 36 + 2 * samples.length, true); word(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true); view.setUint32(28, 2 * RATE, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  word(36, "data"); view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, place) => view.setInt16(44 + 2 * place, 32767 * Math.max(-1, Math.min(1, value)), true));
  return view.buffer;
}

// ---- Drawing

const say = (name, ...values) => values.reduce((text, value, place) => text.replaceAll(`{${place}}`, value), page.texts[language][name]);
const number = (value, digits) => value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
const clock = seconds => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
const best = scores => scores.indexOf(Math.max(...scores));

function show(next) {
  status = next;
  const [name, ...values] = status;
  const shown = name === "progress" ? [Math.round(100 * values[0])] : values.map((value, place) => number(value, place + 1));
  find("status").textContent = say(name, ...shown);
}

function complain(name, ...values) {
  find("message").hidden = !name;
  find("message").textContent = name ? say(name, ...values) : "";
  find("message").dataset.name = name ?? "";
}

function drawAnswer() {
  const { emotions } = page.texts[language];
  const scores = answer?.scores ?? page.labels.map(() => 0);
  const hopeless = answer && isHopeless(answer.reason);
  const winner = answer && !answer.silent && !hopeless ? best(scores) : -1;
  find("answer").classList.toggle("unsure", Boolean(answer?.reason || answer?.silent));
  const name = winner >= 0 ? emotions[winner] : answer?.silent ? say("silence") : hopeless ? say("hopeless") : live ? say("listening") : say("nothing");
  find("emotion").textContent = name[0].toLocaleUpperCase(language) + name.slice(1);
  find("emotion").style.setProperty("--color", winner >= 0 ? page.colors[winner] : "var(--track)");
  find("doubt").textContent = answer?.reason && !answer.silent ? page.texts[language].unsure[answer.reason] : "";
  [...find("bars").children].forEach((row, place) => {
    row.classList.toggle("best", place === winner);
    row.querySelector(".name").textContent = emotions[place];
    row.querySelector(".bar").style.width = `${100 * scores[place]}%`;
    row.querySelector(".value").textContent = answer ? `${Math.round(100 * scores[place])}${language === "ru" ? "\u00a0" : ""}%` : "";
  });
}

function drawWave() {
  const canvas = find("wave"), shown = Boolean(clip && clip.length);
  find("over-time").hidden = !shown;
  if (!shown) return;
  const style = getComputedStyle(document.documentElement), scale = devicePixelRatio;
  const width = canvas.clientWidth, height = 140;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);

  const from = live ? Math.max(0, clip.length - 30 * RATE) : 0;  // the last half minute of a live voice
  const span = live ? Math.max(clip.length - from, 10 * RATE) : clip.length;
  const count = Math.floor(width / 4), size = span / count;
  let loudest = 0.02;
  const peaks = Array.from({ length: count }, (_, bar) => {
    let peak = 0;
    const end = Math.min(from + (bar + 1) * size, clip.length), step = Math.max(1, Math.floor(size / 400));
    for (let place = Math.floor(from + bar * size); place < end; place += step) peak = Math.max(peak, Math.abs(clip[place]));
    loudest = Math.max(loudest, peak);
    return peak;
  });
  const plain = style.getPropertyValue("--line");
  const played = find("player").currentTime / (clip.length / RATE);
  let at = 0;
  peaks.forEach((peak, bar) => {
    const second = (from + (bar + 0.5) * size) / RATE;
    while (at < pieces.length - 1 && pieces[at].end <= second) at++;
    const piece = pieces[at] && second >= pieces[at].start && second < pieces[at].end ? pieces[at] : null;
    if (from + bar * size >= clip.length) return;
    const tall = Math.max(3, (peak / loudest) * (height - 24));
    context.fillStyle = piece?.scores ? page.colors[best(piece.scores)] : plain;
    context.globalAlpha = !live && played > 0 && bar / count > played ? 0.45 : 1;
    context.beginPath();
    context.roundRect(bar * 4, (height - tall) / 2, 3, tall, 1.5);
    context.fill();
  });
  context.globalAlpha = 1;
  const second = find("player").currentTime;
  find("clock").textContent = live || !second ? clock(clip.length / RATE) : `${clock(second)} / ${clock(clip.length / RATE)}`;
}

function draw() {
  document.documentElement.lang = language;
  document.title = say("title");
  document.querySelectorAll("[data-text]").forEach(element => { element.textContent = say(element.dataset.text); });
  for (const name of ["title", "ariaLabel"]) find("clear")[name] = say("clear");
  find("text").placeholder = say("text_hint");
  find("microphone-text").textContent = say(live ? "stop" : "microphone");
  find("microphone").classList.toggle("on", Boolean(live));
  find("over-time").classList.toggle("live", Boolean(live));
  find("play").hidden = Boolean(live) || !find("player").src;
  find("clear").hidden = Boolean(live);
  find("play").textContent = say(find("player").paused ? "play" : "pause");
  find("model").textContent = say("model", page.model, number(page.megabytes, 1));
  find("timeline-hint").textContent = say(live ? "live_hint" : pieces.length > 1 ? "pieces_hint" : "one_hint", HOP_S, CHUNK_S);
  [...find("languages").children].forEach(button => button.setAttribute("aria-pressed", button.lang === language));
  const seen = [...new Set(pieces.filter(piece => piece.scores).map(piece => best(piece.scores)))].sort((a, b) => a - b);
  find("moment").replaceChildren(...seen.map(place => {
    const item = document.createElement("span");
    item.textContent = page.texts[language].emotions[place];
    item.style.setProperty("--color", page.colors[place]);
    return item;
  }));
  if (find("message").dataset.name && find("message").dataset.name !== "failed") complain(find("message").dataset.name, String(LONGEST_S / 60));
  drawAnswer();
  drawWave();
  show(busy ? ["working"] : status);
}

// ---- Controls

for (const code of languages) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", lang: code, textContent: page.texts[code].language });
  button.addEventListener("click", () => { language = code; draw(); });
  find("languages").append(button);
}
for (const color of page.colors) {
  const row = document.createElement("li");
  const part = name => Object.assign(document.createElement("span"), { className: name });
  const track = part("track");
  track.append(part("bar"));
  row.append(part("name"), track, part("value"));
  row.style.setProperty("--color", color);
  find("bars").append(row);
}
find("words").hidden = !page.reads_text;

let typing = 0;
find("text").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    complain(isLong() && find("text").value.trim() ? "text_unused" : null);
    if (!isLong()) analyze();
  }, 350);
});
find("clear").addEventListener("click", () => { forget(); analyze(); });
find("file").addEventListener("change", event => { if (event.target.files[0]) open(event.target.files[0]); event.target.value = ""; });
find("choose").addEventListener("keydown", event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); find("file").click(); } });
find("microphone").addEventListener("click", () => (live ? stop() : listen()));
find("play").addEventListener("click", () => (find("player").paused ? find("player").play() : find("player").pause()));
find("wave").addEventListener("click", event => {
  if (live || !clip) return;
  find("player").currentTime = (event.offsetX / find("wave").clientWidth) * (clip.length / RATE);
});
for (const name of ["play", "pause", "ended", "seeked"]) find("player").addEventListener(name, draw);
(function follow() { if (!find("player").paused) drawWave(); requestAnimationFrame(follow); })();
addEventListener("resize", drawWave);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
for (const name of ["dragover", "dragleave", "drop"]) addEventListener(name, event => {
  event.preventDefault();
  document.body.classList.toggle("dropping", name === "dragover");
  if (name === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
});

draw();
ready.then(() => { if (!busy) show(["ready"]); }, error => complain("failed", error.message));

// For other scripts on the page, and for tests.
globalThis.bibier = { ready, page, decode, logits: (samples, text = "") => ask({ clips: [samples], text }), tokens: text => ask({ tokens: text }) };
