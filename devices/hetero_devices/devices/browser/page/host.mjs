// The host's server, as the page sees it.

const PAGE = Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
const TRIES = 30; // seconds of a host that does not answer, while results are waiting

// A request that the host refused: status and its one line.
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// The next job, or null when there is none for now. Throws TypeError when the host is not there.
export async function nextJob() {
  const response = await checked(await fetch(`/job?page=${PAGE}`, { cache: "no-store" }));
  return response.status === 204 ? null : response.json();
}

// Progress is best effort: what is lost is told again soon. Refused (409) means that the job is no longer ours.
export async function postProgress(claim, progress) {
  try {
    await post(claim, "progress", JSON.stringify(progress));
  } catch (error) {
    if (error instanceof Refusal) throw error;
  }
}

// A result; while the host cannot be reached it is tried again.
export async function postResult(claim, kind, body) {
  for (let left = TRIES; ; left--) {
    try {
      return await post(claim, kind, body);
    } catch (error) {
      if (error instanceof Refusal || left === 0) throw error;
      await pause(1000);
    }
  }
}

// Whoever comes next may have our job at once.
export function sayGoodbye() {
  navigator.sendBeacon("/leave", PAGE);
}

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function post(claim, kind, body) {
  await checked(await fetch(`/results/${claim}/${kind}`, { method: "POST", body }));
}

async function checked(response) {
  if (!response.ok) throw new Refusal(response.status, await response.text());
  return response;
}
