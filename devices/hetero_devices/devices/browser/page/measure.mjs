// Latency the way MLPerf's single stream is measured, by the same rule as the Python runner's measure.py.

// Runs a freshly loaded session on the images in turn, one at a time, until `stopping` says so. Milliseconds.
// tell: called between two samples, with how many there are and how many there should be.
export async function measureLatency(session, images, stopping, loadMs, tell, clock = () => performance.now()) {
  let next = 0;
  const one = async () => {
    const pixels = image(images, next++ % images.count);
    const start = clock();
    await session.run(pixels);
    return clock() - start;
  };
  const firstMs = await one();
  for (let i = 0; i < stopping.warm_up; i++) await one();
  const samples = [];
  const start = clock();
  for (;;) {
    samples.push(await one());
    const seconds = (clock() - start) / 1000;
    const enough = samples.length >= stopping.min_samples && seconds >= stopping.min_seconds;
    if (enough || seconds >= stopping.max_seconds) break;
    tell(samples.length, stopping.min_samples);
  }
  return summarise(samples, firstMs, loadMs, stopping.warm_up);
}

// Order statistics; percentiles by nearest rank.
export function summarise(samples, firstMs, loadMs, warmUp) {
  const sorted = [...samples].sort((a, b) => a - b);
  const rank = (percent) => sorted[Math.max(Math.ceil((percent / 100) * sorted.length), 1) - 1];
  return {
    p50_ms: rank(50), p90_ms: rank(90), p95_ms: rank(95), p99_ms: rank(99),
    mean_ms: samples.reduce((sum, ms) => sum + ms, 0) / samples.length, min_ms: sorted[0],
    first_ms: firstMs, load_ms: loadMs, samples: samples.length, warm_up: warmUp,
  };
}

// The pixels of one of {count, height, width, pixels}: Uint8Array of H * W * 3.
export function image(images, index) {
  const size = images.height * images.width * 3;
  return images.pixels.subarray(index * size, (index + 1) * size);
}
