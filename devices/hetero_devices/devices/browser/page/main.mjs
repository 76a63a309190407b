// Asks the host for jobs as long as the page is open, and does each in a fresh worker.

import { described, Failure } from "./failure.mjs";
import { nextJob, pause, postProgress, postResult, Refusal, sayGoodbye } from "./host.mjs";
import * as view from "./view.mjs";

const HEARTBEAT = 2000; // milliseconds between two signs of life

view.showBrowser();
addEventListener("pagehide", sayGoodbye);
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
serve();

async function serve() {
  for (;;) {
    try {
      const order = await nextJob();
      if (order) await work(order);
    } catch (error) {
      if (error instanceof Refusal) return view.showRefused(error.message);
      await hostIsBack();
      return location.reload(); // the host may have been updated meanwhile, and the page with it
    }
  }
}

async function hostIsBack() {
  view.showAway();
  for (;;) {
    await pause(1500);
    if (await fetch("/icon.svg", { cache: "no-store" }).then(() => true, () => false)) return;
  }
}

async function work(order) {
  const lock = await navigator.wakeLock?.request("screen").catch(() => null);
  view.begin(order);
  try {
    const { embeddings, statistics } = await inWorker(order);
    view.show({ state: "sending the results" });
    if (embeddings) await postResult(order.claim, "embeddings", embeddings);
    await postResult(order.claim, "statistics", JSON.stringify(statistics));
    view.finish(statistics);
  } catch (error) {
    await giveUp(order, error);
  } finally {
    lock?.release();
  }
}

// Tell the host why, unless the job is no longer ours.
async function giveUp(order, error) {
  const lost = error instanceof Refusal && error.status === 409;
  const failure = error instanceof Refusal ? { error: "DeviceError", message: error.message } : described(error);
  view.fail(failure.message, lost);
  if (!lost) await postResult(order.claim, "failure", JSON.stringify(failure)).catch(() => {});
}

// Messages of a worker: progress to show, {ask} for the page's memory, {finished} or {failed}.
function inWorker(order) {
  const worker = new Worker("/worker.js");
  let progress = { state: "starting", done: 0, total: 0 };
  let beat;
  let last = 0;
  return new Promise((resolve, reject) => {
    const live = () => {
      last = performance.now();
      postProgress(order.claim, progress).catch(reject);
    };
    beat = setInterval(live, HEARTBEAT);
    worker.onerror = (event) => reject(new Failure("DeviceError", `the page's worker failed: ${event.message}`));
    worker.onmessage = async ({ data }) => {
      if (data.finished) return resolve(data);
      if (data.failed) return reject(new Failure(data.failed.error, data.failed.message));
      if (data.ask) return worker.postMessage({ bytes: await memoryNow() });
      view.show(data);
      const { state = progress.state, done = progress.done, total = progress.total } = data;
      const news = state !== progress.state;
      progress = { state, done, total };
      if (news || performance.now() - last > HEARTBEAT) live(); // a hidden page's timers hardly run
    };
    worker.postMessage({ order });
  }).finally(() => {
    clearInterval(beat);
    worker.terminate();
  });
}

// Bytes of the page with its workers, where the browser tells; it waits for a garbage collection to tell.
async function memoryNow() {
  try {
    return (await performance.measureUserAgentSpecificMemory()).bytes;
  } catch {
    return null;
  }
}
