// What the Python runner does with a job, here in a worker: embeddings and statistics out of a model and images.

import { browserName, features, processor } from "./browser.mjs";
import { Failure, oneLine } from "./failure.mjs";
import { image, measureLatency } from "./measure.mjs";
import { readImages, writeMatrix } from "./npy.mjs";
import { sha256 } from "./sha256.mjs";

const OFTEN = 100; // milliseconds between two reports
const MEMORY_RUNS = 5;
const MEASURED = 256; // images that take part in a measurement, as in the Python runner

// tell({state, done, total, ...}): progress. memoryNow() -> bytes of the whole page, or null.
// -> {embeddings: bytes of a .npy or null, statistics}
export async function perform(order, tell, memoryNow) {
  const able = features();
  if (order.threads > 1 && !able.threads_possible) {
    const remedy = "open it by localhost, or ask for one thread";
    throw new Failure("DeviceError", `${order.threads} threads need a cross-origin isolated page: ${remedy}`);
  }
  const bytes = await fetched(order.model, "model", tell);
  const images = await imagesOf(order, tell);
  tell({ state: "starting the runtime", done: 0, total: 0 });
  const { prepare } = await import(order.model.name.endsWith(".onnx") ? "./onnx.mjs" : "./litert.mjs");
  const runtime = await prepare(order, able);
  tell({ runtime: `${runtime.details.runtime} ${runtime.details.version}` });
  const before = order.tasks.includes("memory") ? await memoryNow() : null;
  tell({ state: "loading the model" });
  const start = performance.now();
  const session = await runtime.load(bytes, order.model.name, images);
  const loadMs = performance.now() - start;
  try {
    const found = await tasks(order, session, images, loadMs, tell);
    const peak = order.tasks.includes("memory") ? await memory(session, images, before, memoryNow) : null;
    return { embeddings: found.embeddings, statistics: await profile(order, runtime, able, found, peak) };
  } catch (error) {
    if (error instanceof Failure) throw error;
    throw new Failure("ModelError", `${runtime.details.runtime} failed on ${order.model.name}: ${oneLine(error)}`);
  }
}

async function tasks(order, session, images, loadMs, tell) {
  let latency = null, embeddings = null;
  if (order.tasks.includes("latency")) { // before embedding, so that the first inference is the first
    const some = { ...images, count: Math.min(images.count, MEASURED) };
    const often = seldom((done, total) => tell({ state: "measuring", done: Math.min(done, total), total }));
    latency = await measureLatency(session, some, order.stopping, loadMs, often);
    tell({ latency });
  }
  if (order.tasks.includes("embed")) embeddings = await embed(order, session, images, tell);
  return { latency, embeddings };
}

async function embed(order, session, images, tell) {
  let all = null;
  const start = performance.now();
  const often = seldom((done) => tell({
    state: "embedding", done, total: images.count, msPerImage: (performance.now() - start) / done,
    preview: image(images, done - 1).slice(), height: images.height, width: images.width,
  }));
  for (let row = 0; row < images.count; row++) {
    const embedding = await session.run(image(images, row));
    if (!embedding.every(Number.isFinite)) {
      throw new Failure("ModelError", `${order.model.name} gave NaN or infinity (first for image ${row})`);
    }
    all ??= new Float32Array(images.count * embedding.length);
    all.set(embedding, row * embedding.length);
    often(row + 1, images.count);
  }
  return writeMatrix(all, images.count);
}

// How far loading and running raised the page's memory, in 10^6 bytes; null where the browser does not tell.
async function memory(session, images, before, memoryNow) {
  for (let i = 0; i < MEMORY_RUNS; i++) await session.run(image(images, i % images.count));
  const after = await memoryNow();
  return before === null || after === null || after <= before ? null : (after - before) / 1e6;
}

async function profile(order, runtime, able, { latency, embeddings }, peak) {
  const versions = { browser: browserName(), user_agent: navigator.userAgent };
  const details = { ...runtime.details, threads: order.threads, ...able };
  if (peak !== null) details.memory = "performance.measureUserAgentSpecificMemory, of the page, not of a process";
  return {
    latency, peak_memory_mb: peak, threads: order.threads, runtime: details, cpu: await processor(), versions,
    digests: embeddings ? { embeddings: await sha256(embeddings) } : {},
  };
}

async function imagesOf(order, tell) {
  try {
    return readImages(await fetched(order.images, "images", tell));
  } catch (error) {
    throw error instanceof Failure ? error : new Failure("DataError", oneLine(error));
  }
}

// A file of the job, whole and as it was sent; what the browser kept of it damaged is fetched once more.
async function fetched({ name, sha256: expected, bytes }, what, tell) {
  tell({ state: `fetching the ${what}`, done: 0, total: 0 });
  for (const cache of ["default", "reload"]) {
    const response = await fetch(`/files/${expected}`, { cache });
    if (!response.ok) throw new Failure("DeviceError", `cannot fetch ${name}: ${await response.text()}`);
    const content = new Uint8Array(await response.arrayBuffer());
    if (content.length === bytes && await sha256(content) === expected) return content;
  }
  throw new Failure("TransferError", `the ${what} ${name} did not arrive as they were sent: send them again`);
}

// A report that is made at most every OFTEN milliseconds, and for the last time when all is done.
function seldom(report) {
  let last = 0;
  return (done, total) => {
    const now = performance.now();
    if (now - last < OFTEN && done !== total) return;
    last = now;
    report(done, total);
  };
}
