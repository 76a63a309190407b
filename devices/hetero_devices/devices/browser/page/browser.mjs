// What this browser is and can do, for the record beside every measurement.

const module = (...bytes) => new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, ...bytes]);
// One function each that uses i8x16.popcnt, and i8x16.relaxed_swizzle.
const SIMD = module(1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11);
const RELAXED = module(
  1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11,
);

export function features() {
  return {
    simd: WebAssembly.validate(SIMD),
    relaxed_simd: WebAssembly.validate(RELAXED),
    threads_possible: globalThis.crossOriginIsolated === true && typeof SharedArrayBuffer === "function",
    cross_origin_isolated: globalThis.crossOriginIsolated === true,
    secure_context: globalThis.isSecureContext === true,
    timer_ms: timer(),
  };
}

// The smallest step of the clock, which is coarse where the page is not isolated.
function timer() {
  let smallest = Infinity;
  const end = performance.now() + 20;
  for (let last = performance.now(); last < end;) {
    const now = performance.now();
    if (now > last) smallest = Math.min(smallest, now - last);
    last = now;
  }
  return Math.round(smallest * 1e4) / 1e4;
}

// A page does not learn which processor it runs on; model is what the browser tells of the machine, or null.
export async function processor() {
  const cores = navigator.hardwareConcurrency ?? null;
  return { machine: "wasm32", model: await machine(), cores, flags: null, governor: null };
}

async function machine() {
  try {
    const hints = ["architecture", "bitness", "model", "platformVersion"];
    const told = await navigator.userAgentData.getHighEntropyValues(hints);
    const parts = [told.model, told.platform, told.platformVersion, told.architecture, told.bitness];
    return parts.filter(Boolean).join(" ") || null;
  } catch {
    return null; // only some browsers tell, and only a secure context
  }
}

export function browserName() {
  const brands = (navigator.userAgentData?.brands ?? []).filter(({ brand }) => !/brand/i.test(brand));
  const brand = brands.find(({ brand }) => brand !== "Chromium") ?? brands[0];
  if (brand) return `${brand.brand} ${brand.version}`;
  const known = /(Firefox|FxiOS|CriOS|EdgiOS|Chrome)\/(\d+)/.exec(navigator.userAgent);
  if (known) return `${known[1]} ${known[2]}`;
  const safari = /Version\/([\d.]+).*Safari/.exec(navigator.userAgent);
  return safari ? `Safari ${safari[1]}` : navigator.userAgent;
}
