// What the page shows. Text goes in as text, never as markup: names come from the host's files.

import { browserName, features } from "./browser.mjs";

const part = (id) => document.getElementById(id);
const number = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits });
const milliseconds = (value) => `${number(value, value < 10 ? 2 : value < 100 ? 1 : 0)} ms`;

const STAY = "Keep this page open and in front.";

let begun = 0;
let clock;
let job = null; // {order, done, total, msPerImage, latency}
const totals = { jobs: 0, images: 0 };

export function showBrowser() {
  const able = features();
  part("browser").replaceChildren(
    ...fact("Browser", browserName()),
    ...fact("Processor cores", navigator.hardwareConcurrency ?? "not told"),
    ...fact("WASM SIMD", able.simd ? (able.relaxed_simd ? "yes, relaxed too" : "yes") : "no"),
    ...fact("Threads", able.threads_possible ? "available" : "one only: the page is not isolated"),
    ...fact("Timer step", able.timer_ms < 0.1 ? `${number(able.timer_ms * 1000, 0)} µs` : `${able.timer_ms} ms`),
  );
  status("idle", "Ready", "Waiting for a job", `${STAY} The host gives it jobs.`);
}

export function showAway() {
  status("away", "Host away", "The host is not there", "This page goes on by itself when the host is back.");
}

export function showRefused(message) {
  status("failed", "No access", "This page has no access", message);
}

export function begin(order) {
  job = { order, done: 0, total: 0 };
  begun = performance.now();
  clearInterval(clock);
  clock = setInterval(tick, 500);
  part("device").textContent = order.device;
  part("model").textContent = order.model.name;
  part("runtime").textContent = order.model.name.endsWith(".onnx") ? "ONNX Runtime Web" : "LiteRT.js";
  part("tasks").textContent = `${order.tasks.join(" + ")}, ${plural(order.threads, "thread")}`;
  part("job").hidden = false;
  part("result").hidden = true;
  part("preview").hidden = true;
  speed(null, "");
  bar(0, 0);
  status("running", "Running", "Starting", STAY);
  tick();
}

// Whatever a worker tells: {state, done, total, msPerImage, runtime, latency, preview, height, width}.
export function show(news) {
  if (news.state) status("running", "Running", news.state[0].toUpperCase() + news.state.slice(1), STAY);
  if (news.runtime) part("runtime").textContent = news.runtime;
  if (news.msPerImage) speed(news.msPerImage, "mean so far");
  if (news.preview) draw(news);
  if (news.latency) job.latency = news.latency;
  if (news.total !== undefined) bar(news.done, news.total);
}

export function finish(statistics) {
  clearInterval(clock);
  tick();
  const images = job.order.tasks.includes("embed") ? job.total : 0;
  totals.jobs += 1;
  totals.images += images;
  if (statistics.latency) speed(statistics.latency.p50_ms, "median");
  part("result").replaceChildren(...results(statistics, images));
  part("result").hidden = false;
  remember("done", images ? plural(images, "image") : job.order.tasks.join(" + "));
  const sum = `${plural(totals.jobs, "job")} done on this page, ${plural(totals.images, "image")} embedded`;
  status("done", "Ready", "Done, results are with the host", `${sum}. Waiting for the next job.`);
}

export function fail(message, lost) {
  clearInterval(clock);
  remember("failed", lost ? "given back" : "failed");
  if (lost) status("idle", "Ready", "Job given back", message);
  else status("failed", "Failed", "The job failed", `${message} Waiting for the next job.`);
}

function results({ latency, peak_memory_mb, digests }, images) {
  const facts = [];
  if (images) facts.push(["Embeddings", `${plural(images, "image")}, sha256 ${digests.embeddings.slice(0, 8)}…`]);
  if (latency) {
    const { p50_ms, p90_ms, p99_ms, first_ms, load_ms, samples } = latency;
    facts.push(["Latency p50", milliseconds(p50_ms)], ["p90", milliseconds(p90_ms)], ["p99", milliseconds(p99_ms)]);
    facts.push(["First inference", milliseconds(first_ms)], ["Model load", milliseconds(load_ms)]);
    facts.push(["Samples", number(samples, 0)]);
  }
  if (peak_memory_mb !== null) facts.push(["Page memory", `${number(peak_memory_mb, 1)} MB`]);
  return facts.flatMap(([name, value]) => fact(name, value));
}

function status(kind, label, title, detail) {
  document.body.dataset.status = kind;
  part("label").textContent = label;
  part("state").textContent = title;
  part("detail").textContent = detail;
  document.title = kind === "running" ? `${title} · hetero` : `${label} · hetero`;
}

function bar(done, total) {
  Object.assign(job, { done, total });
  const share = total ? done / total : 0;
  part("bar").value = share;
  part("percent").textContent = total ? `${Math.floor(100 * share)} %` : "";
  part("count").textContent = total ? number(done, 0) : "–";
  part("total").textContent = total ? `of ${number(total, 0)}` : "";
}

function speed(value, kind) {
  part("speed").textContent = value === null ? "–" : milliseconds(value);
  part("kind").textContent = kind;
}

function tick() {
  const seconds = (performance.now() - begun) / 1000;
  part("elapsed").textContent = duration(seconds);
}

function duration(seconds) {
  return seconds < 60 ? `${seconds.toFixed(1)} s` : `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
}

function draw({ preview, height, width }) {
  const canvas = part("preview");
  Object.assign(canvas, { height, width, hidden: false });
  const image = new ImageData(width, height);
  for (let i = 0, j = 0; i < preview.length; i += 3, j += 4) {
    image.data.set([preview[i], preview[i + 1], preview[i + 2], 255], j);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function remember(kind, what) {
  const row = document.createElement("li");
  row.dataset.kind = kind;
  const time = duration((performance.now() - begun) / 1000);
  row.append(...[job.order.model.name, what, time].map((text) => made("span", text)));
  part("history").prepend(row);
  while (part("history").children.length > 8) part("history").lastChild.remove();
  part("past").hidden = false;
}

function fact(name, value) {
  return [made("dt", name), made("dd", value)];
}

function made(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

function plural(count, word) {
  return `${number(count, 0)} ${word}${count === 1 ? "" : "s"}`;
}
