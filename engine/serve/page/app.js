// The page: a lesson from its first picture to its last sentence.

import { Pictures, RATE, Sound, decodeSound, openDevices, tap } from "./media.js";
import { curve, level, skeleton } from "./draw.js";
import { choose, current, has, measured, named, t } from "./words.js";

const $ = (id) => document.getElementById(id);
const PATIENT = 1 << 20; // bytes that wait to be sent before pictures are left out
const SVG = "http://www.w3.org/2000/svg";

const state = {
  lesson: null, // under way
  pitch: [], // [seconds, Hz or null]
  finals: [],
  partial: [],
  poses: [],
  points: [],
  levels: [],
  seconds: 0,
  status: "idle",
};

/* ---- small things ---- */

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function say(status) {
  state.status = status;
  $("status").textContent = status ? t(status) : "";
}

function complain(message) {
  $("alert").textContent = message;
  $("alert").hidden = !message;
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

function lab() {
  return document.querySelector("input[name=lab]:checked").value;
}

/* ---- the timeline ---- */

function perSecond() {
  const seconds = Math.max(10, state.seconds + 1);
  return Math.max($("timeline").clientWidth / seconds, Math.min(90, 8000 / seconds));
}

let drawn = false;
function redraw() {
  if (drawn) return;
  drawn = true;
  requestAnimationFrame(() => {
    drawn = false;
    const scale = perSecond();
    const width = Math.max($("timeline").clientWidth, (state.seconds + 1) * scale);
    $("track").style.width = `${width}px`;
    $("curve").style.width = `${width}px`;
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    curve($("curve"), state.pitch, state.seconds, scale, { accent: colour("--accent"), soft: colour("--soft"), line: colour("--line") });
    place(scale);
    if (state.lesson?.recording) $("timeline").scrollLeft = width;
    $("timeline").setAttribute("aria-valuemax", state.seconds.toFixed(0));
  });
}

function place(scale) {
  const ends = [0, 0]; // of both rows of words
  const words = [...state.finals.map((w) => [w, false]), ...state.partial.map((w) => [w, true])];
  const box = $("words");
  while (box.childElementCount > words.length) box.lastElementChild.remove();
  words.forEach(([word, partial], i) => {
    const span = box.children[i] ?? box.appendChild(document.createElement("span"));
    const text = word.word.trim();
    if (span.textContent !== text) span.textContent = text;
    const left = word.start * scale;
    const row = left >= ends[0] ? 0 : left >= ends[1] ? 1 : ends[0] <= ends[1] ? 0 : 1;
    ends[row] = left + 10 + [...text].reduce((sum, c) => sum + (c.charCodeAt(0) > 0x1100 ? 14 : 7.6), 0);
    span.className = `${row === 1 ? "low" : ""} ${partial ? "partial" : ""}`;
    span.style.left = `${left}px`;
    span.dataset.start = word.start;
    span.dataset.end = word.end;
  });
  for (const band of $("spans").children) {
    band.style.left = `${band.dataset.from * scale}px`;
    band.style.width = `${Math.max(24, (band.dataset.to - band.dataset.from) * scale)}px`;
  }
}

function cursorAt(seconds) {
  const scale = perSecond();
  $("cursor").hidden = false;
  $("cursor").style.left = `${seconds * scale}px`;
  $("timeline").setAttribute("aria-valuenow", seconds.toFixed(1));
  for (const span of $("words").children) {
    span.classList.toggle("now", seconds >= span.dataset.start && seconds < span.dataset.end);
  }
}

function seek(seconds, until) {
  const video = $("video");
  if (state.lesson?.recording || !video.src) return;
  state.until = until ?? null;
  video.currentTime = Math.max(0, Math.min(seconds, state.seconds));
  if (until !== undefined) video.play().catch(() => {});
  cursorAt(video.currentTime);
  const left = seconds * perSecond();
  const line = $("timeline");
  if (left < line.scrollLeft || left > line.scrollLeft + line.clientWidth - 40) line.scrollLeft = Math.max(0, left - 60);
}

/* ---- what the server tells ---- */

const tellers = {
  ready() { state.lesson.ready(); },
  partial({ words }) { state.partial = words; redraw(); },
  final({ words }) { state.finals.push(...words); state.partial = []; redraw(); },
  segment() {},
  pitch({ t, hop, hz }) {
    hz.forEach((value, i) => state.pitch.push([t + i * hop, value]));
    state.seconds = Math.max(state.seconds, t + hz.length * hop);
    redraw();
  },
  pose(event) {
    state.poses.push(event);
    state.seconds = Math.max(state.seconds, event.t);
    state.drawnPeople = skeleton($("overlay"), event) ? event.people.length : 0;
    if (state.pitch.length === 0) redraw();
  },
  face({ faces }) {
    const shown = faces[0]?.expression && Object.entries(faces[0].expression).sort((a, b) => b[1] - a[1])[0];
    $("expression").hidden = !shown || shown[1] < 0.5;
    if (shown) $("expression").textContent = t(shown[0]);
  },
  ended(event) {
    state.seconds = Math.max(state.seconds, event.seconds);
    state.ended = event;
    redraw();
  },
  features() { $("result").hidden = false; },
  score: showScore,
  token({ point, text }) {
    const draft = draftOf(point);
    draft.textContent += text;
  },
  point: showPoint,
  done: showDone,
  error({ error }) {
    complain(error.message + (error.param ? ` (${error.param})` : ""));
    state.failed = true;
  },
};

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function showScore({ name, value }) {
  const rounded = Math.round(value);
  if (name === "overall") {
    const around = 2 * Math.PI * 42;
    const ring = shape("svg", { viewBox: "0 0 100 100", class: "ring", role: "img", "aria-label": `${named(name)} ${rounded}` });
    const arc = shape("circle", { cx: 50, cy: 50, r: 42, transform: "rotate(-90 50 50)", "stroke-dasharray": around, "stroke-dashoffset": around });
    const text = shape("text", { x: 50, y: 51 });
    text.textContent = rounded;
    ring.append(shape("circle", { cx: 50, cy: 50, r: 42 }), arc, text);
    $("scores").append(ring);
    requestAnimationFrame(() => arc.setAttribute("stroke-dashoffset", around * (1 - value / 100)));
    return;
  }
  const full = element("b");
  const row = element("div", { className: "score" }, element("span", { textContent: named(name) }), element("i", {}, full), element("output", { textContent: rounded }));
  row.dataset.name = name;
  $("scores").append(row);
  requestAnimationFrame(() => { full.style.width = `${value}%`; });
}

function draftOf(point) {
  let draft = $(`draft-${point}`);
  if (!draft) {
    draft = element("li", { id: `draft-${point}`, className: "draft" });
    $("points").append(draft);
  }
  return draft;
}

function showPoint(point) {
  $("result").hidden = false;
  $(`draft-${point.id}`)?.remove();
  const [from, to] = point.span;
  const show = () => {
    for (const band of $("spans").children) band.classList.toggle("chosen", band.dataset.n === String(point.id));
    seek(from, to);
  };
  const label = `${point.id} · ${from.toFixed(1)} – ${to.toFixed(1)} s`;
  const button = element("button", { type: "button", className: "seek", textContent: `${label} ▸`, onclick: show });
  const evidence = element("small", { textContent: point.evidence.slice(0, 3).map(measured).join(" · ") });
  const item = element("li", { className: point.kind }, element("p", { textContent: point.text }), button, evidence);
  $("points").append(item);
  const band = element("button", { type: "button", className: point.kind, onclick: show, title: point.text });
  band.setAttribute("aria-label", `${label}: ${point.text}`);
  Object.assign(band.dataset, { n: point.id, from, to });
  $("spans").append(band);
  state.points.push(point);
  redraw();
}

function showDone(done) {
  const lines = done.text.split("\n");
  $("opening").textContent = lines[0];
  $("closing").textContent = lines.length > 1 ? lines[lines.length - 1] : "";
  const { pictures = 0, dropped = 0 } = state.ended ?? {};
  const parts = [done.model ? t("by", done.model) : t("by_planner")];
  if (state.firstEvent) parts.push(t("first", state.firstEvent.toFixed(1)));
  if (dropped > 0) parts.push(t("dropped", pictures, pictures + dropped));
  $("foot").textContent = `${parts.join(" · ")}.`;
  $("again").hidden = false;
  state.complete = true;
  say($("video").src ? "replay" : "");
}

/* ---- a lesson ---- */

class Lesson {
  constructor(file) {
    this.file = file;
    this.lab = lab();
    this.recording = false;
    this.ends = []; // what has to be closed
    this.opened = new Promise((resolve, reject) => { this.ready = resolve; this.fail = reject; });
    this.opened.catch(() => {});
  }

  /** Opens the connection, then what is recorded, and runs until the clip ends. */
  async run() {
    say(this.file ? "opening" : "camera");
    if (!this.file) {
      const silent = (error) => (this.lab === "dance" ? openDevices(true, false) : Promise.reject(error)); // it may have no music
      this.stream = await openDevices(this.lab !== "speech", true).catch(silent);
      this.ends.push(() => this.stream.getTracks().forEach((track) => track.stop()));
    }
    if (state.lesson !== this) return;
    say("opening");
    this.connect();
    await this.opened;
    if (state.lesson !== this) return;
    await (this.file ? this.play() : this.record());
  }

  connect() {
    const protocols = ["dreamseed.v1"];
    const key = $("key").value.trim();
    if (key) protocols.push(`dreamseed.key.${key}`);
    const address = new URL("/v1/realtime", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(address, protocols);
    this.socket.onopen = () => {
      this.wasOpen = true;
      const start = { type: "start", lab: this.lab, language: current(), llm: $("llm").checked };
      const text = $("text").value.trim();
      if (text && this.lab !== "dance") start.text = text;
      this.socket.send(JSON.stringify(start));
    };
    this.socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (this.asked && !state.firstEvent && event.event === "features") state.firstEvent = (performance.now() - this.asked) / 1000;
      if (state.lesson === this) tellers[event.event]?.(event);
    };
    this.socket.onclose = () => this.closed();
  }

  /** The connection is closed: the lesson is complete, or something has failed. */
  async closed() {
    if (state.lesson !== this) return;
    const why = state.complete || state.failed ? null : this.wasOpen ? t("closed") : await refusal();
    this.stop();
    if (why) complain(why);
    finish();
    this.fail(new Error("closed"));
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(message);
  }

  sendPicture(message) {
    if (this.socket.bufferedAmount < PATIENT) this.send(message);
  }

  begin() {
    this.recording = true;
    this.t0 = performance.now();
    $("setup").hidden = true;
    $("live-actions").hidden = false;
    say(`live_${this.lab}`);
    const tick = setInterval(() => { $("clock").textContent = clock((performance.now() - this.t0) / 1000); }, 250);
    this.ends.push(() => clearInterval(tick));
  }

  hear(samples) {
    let sum = 0;
    for (const s of samples) sum += s * s;
    state.levels.push(samples.length ? Math.sqrt(sum / samples.length) : 0);
    if (state.levels.length > 400) state.levels.splice(0, 200);
    if (this.lab === "speech") level($("meter"), state.levels);
  }

  async record() {
    const video = $("video");
    this.sound = new Sound((message) => this.send(message));
    const pictures = new Pictures((message) => this.sendPicture(message));
    if (this.stream.getVideoTracks().length > 0) {
      video.srcObject = this.stream;
      video.muted = true;
      $("stage").classList.add("mirrored");
      await video.play();
    }
    this.keep();
    this.begin();
    const now = () => (performance.now() - this.t0) / 1000;
    this.ends.push(await tap(this.stream, (samples) => {
      if (!this.recording || samples.length === 0) return;
      if (this.sound.samples === 0 && this.sound.held.length === 0) this.sound.start = Math.max(0, now() - samples.length / RATE);
      this.sound.push(samples);
      this.hear(samples);
    }));
    if (this.stream.getVideoTracks().length > 0) {
      this.each(video, () => pictures.take(video, video.videoWidth, video.videoHeight, now(), true));
    }
  }

  /** Calls back for each picture that the video shows. */
  each(video, look) {
    const next = () => {
      if (!this.recording) return;
      look();
      wait();
    };
    const wait = () => (video.requestVideoFrameCallback ? video.requestVideoFrameCallback(next) : requestAnimationFrame(next));
    wait();
  }

  /** Keeps what is recorded in this page, to be seen again. */
  keep() {
    if (!window.MediaRecorder) return;
    const parts = [];
    const recorder = new MediaRecorder(this.stream);
    recorder.ondataavailable = ({ data }) => parts.push(data);
    recorder.onstop = () => {
      if (state.lesson === this || state.lesson === null) show(new Blob(parts, { type: recorder.mimeType }), true);
    };
    recorder.start();
    this.recorder = recorder;
  }

  async play() {
    const video = $("video");
    const samples = await decodeSound(this.file);
    this.sound = new Sound((message) => this.send(message));
    const pictures = new Pictures((message) => this.sendPicture(message));
    if (this.file.type.startsWith("image/")) {
      const image = await createImageBitmap(this.file);
      this.begin();
      drawStill(image);
      await pictures.take(image, image.width, image.height, 0, false);
      return this.end();
    }
    show(this.file, false);
    video.muted = false;
    await video.play().catch((error) => {
      if (error.name !== "NotAllowedError") throw new Error("nothing");
      video.muted = true;
      return video.play();
    });
    this.begin();
    let passed = 0;
    const pass = (until) => {
      const to = Math.min(samples.length, Math.floor(until * RATE));
      if (to <= passed) return;
      this.sound.push(samples.subarray(passed, to));
      this.hear(samples.subarray(passed, to));
      passed = to;
    };
    const timer = setInterval(() => { if (this.recording) pass(video.currentTime); }, 100);
    this.ends.push(() => clearInterval(timer));
    if (video.videoWidth > 0 && this.lab !== "speech") {
      this.each(video, () => pictures.take(video, video.videoWidth, video.videoHeight, video.currentTime, true));
    }
    video.onended = () => {
      if (!this.recording) return;
      pass(samples.length / RATE);
      this.end();
    };
  }

  /** The learner is ready: what was recorded is complete. */
  end() {
    if (!this.recording) return;
    this.recording = false;
    this.sound?.end();
    this.asked = performance.now();
    this.send(JSON.stringify({ type: "end" }));
    this.stop();
    $("live-actions").hidden = true;
    say("thinking");
  }

  stop() {
    this.recording = false;
    if (this.recorder?.state === "recording") this.recorder.stop();
    for (const end of this.ends.splice(0)) end();
    if (this.file) $("video").pause();
  }
}

/** Why the server did not open the connection. */
async function refusal() {
  try {
    const key = $("key").value.trim();
    const answer = await fetch("/v1/realtime", { headers: key ? { authorization: `Bearer ${key}` } : {} });
    const { error } = await answer.json();
    if (answer.status === 401) {
      $("key-field").hidden = false;
      $("key").focus();
    }
    return error.code === "not_websocket" ? t("unreachable") : error.code === "missing_api_key" ? t("needs_key") : error.message;
  } catch {
    return t("unreachable");
  }
}

function drawStill(image) {
  const meter = $("meter");
  const place = meter.getContext("2d");
  meter.width = image.width;
  meter.height = image.height;
  place.drawImage(image, 0, 0);
}

/** Shows what was recorded or given in the stage, with its seconds. */
function show(blob, mirrored) {
  const video = $("video");
  if (video.src) URL.revokeObjectURL(video.src);
  video.srcObject = null;
  video.src = URL.createObjectURL(blob);
  video.muted = false;
  $("stage").classList.toggle("mirrored", mirrored && lab() !== "speech");
}

/** The picture of the skeleton that belongs to the video's time. */
function follow() {
  const video = $("video");
  if (state.lesson?.recording || !video.src) return;
  cursorAt(video.currentTime);
  if (state.until !== null && state.until !== undefined && video.currentTime >= state.until) {
    video.pause();
    state.until = null;
  }
  let nearest = null;
  for (const pose of state.poses) {
    if (!nearest || Math.abs(pose.t - video.currentTime) < Math.abs(nearest.t - video.currentTime)) nearest = pose;
  }
  if (nearest) skeleton($("overlay"), Math.abs(nearest.t - video.currentTime) < 0.4 ? nearest : null);
}

function reset() {
  Object.assign(state, { pitch: [], finals: [], partial: [], poses: [], points: [], levels: [], seconds: 0, firstEvent: 0, ended: null, complete: false, failed: false, until: null });
  for (const id of ["scores", "points", "spans", "words", "opening", "closing", "foot"]) $(id).replaceChildren();
  $("result").hidden = $("again").hidden = $("expression").hidden = $("cursor").hidden = true;
  const video = $("video");
  video.pause();
  video.onended = null;
  video.srcObject = null;
  if (video.src) URL.revokeObjectURL(video.src);
  video.removeAttribute("src");
  video.load();
  $("stage").classList.remove("mirrored");
  skeleton($("overlay"), null);
  level($("meter"), []);
  complain("");
  redraw();
}

async function begin(file) {
  if (state.lesson) return;
  reset();
  sessionStorage.setItem("key", $("key").value.trim());
  $("stage").dataset.state = "live";
  $("start").disabled = $("file").disabled = true;
  const lesson = new Lesson(file);
  state.lesson = lesson;
  try {
    await lesson.run();
  } catch (error) {
    if (state.lesson !== lesson) return;
    lesson.stop();
    lesson.socket?.close();
    complain(has(error.name) ? t(error.name) : has(error.message) ? t(error.message) : error.message);
    finish();
  }
}

/** Nothing is under way any more. */
function finish() {
  state.lesson = null;
  $("live-actions").hidden = true;
  $("setup").hidden = Boolean(state.complete);
  $("start").disabled = $("file").disabled = false;
  if (!state.complete) {
    $("stage").dataset.state = "idle";
    say("idle");
  }
}

function leave() {
  const lesson = state.lesson;
  state.lesson = null;
  lesson?.stop();
  lesson?.socket?.close();
  reset();
  finish();
}

/* ---- the page ---- */

function setLanguage(code) {
  choose(code);
  localStorage.setItem("language", code);
  $("language").textContent = code === "ko" ? "English" : "한국어";
  $("language").lang = code === "ko" ? "en" : "ko";
  say(state.status);
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme ?? "");
  redraw();
}

$("setup").addEventListener("submit", (event) => { event.preventDefault(); begin(null); });
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (file) begin(file);
});
$("stop").addEventListener("click", () => state.lesson?.end());
$("leave").addEventListener("click", leave);
$("again").addEventListener("click", leave);
$("language").addEventListener("click", () => setLanguage(current() === "ko" ? "en" : "ko"));
$("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  setTheme(dark === "dark" ? "light" : "dark");
});
document.querySelectorAll("input[name=lab]").forEach((choice) => choice.addEventListener("change", () => { $("text-field").hidden = lab() === "dance"; }));
$("video").addEventListener("timeupdate", follow);
$("video").addEventListener("seeked", follow);
$("stage").addEventListener("click", () => {
  const video = $("video");
  if (!state.complete || !video.src) return;
  state.until = null;
  if (video.paused) video.play().catch(() => {}); else video.pause();
});
$("timeline").addEventListener("click", (event) => {
  if (event.target.closest("button")) return;
  seek((event.clientX - $("track").getBoundingClientRect().left) / perSecond());
});
$("timeline").addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1, PageDown: 5, PageUp: -5 }[event.key];
  if (by === undefined) return;
  event.preventDefault();
  seek($("video").currentTime + by);
});
window.addEventListener("resize", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

$("key").value = sessionStorage.getItem("key") ?? "";
const theme = localStorage.getItem("theme");
if (theme) setTheme(theme);
setLanguage(localStorage.getItem("language") ?? (navigator.language.startsWith("ko") ? "ko" : "en"));
redraw();
fetch("/page/needs").then((answer) => answer.json()).then(({ key }) => { $("key-field").hidden = !key; }).catch(() => complain(t("unreachable")));
