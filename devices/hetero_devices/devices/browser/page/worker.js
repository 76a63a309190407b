// One job in a thread of its own, as fresh as a process. A classic script, since LiteRT.js needs importScripts.
"use strict";

let answer = null; // to the question in flight

const tell = (message, transfer = []) => postMessage(message, transfer);
const memoryNow = () => new Promise((resolve) => { answer = resolve; tell({ ask: "memory" }); });

onmessage = async ({ data }) => {
  if ("bytes" in data) return answer(data.bytes);
  const { described } = await import("/failure.mjs");
  try {
    const { perform } = await import("/job.mjs");
    const { embeddings, statistics } = await perform(data.order, tell, memoryNow);
    tell({ finished: true, embeddings, statistics }, embeddings ? [embeddings.buffer] : []);
  } catch (error) {
    tell({ failed: described(error) });
  }
};
