// LiteRT.js with its XNNPACK kernels: input `image` float32 [1, H, W, 3] of 0..255, output `embedding` float32.

import { Failure, oneLine } from "./failure.mjs";

// Bring the runtime up, without a model; -> {details, load(bytes, name, images) -> session}.
export async function prepare({ threads, versions, runtimes }, { relaxed_simd }) {
  if (threads > 1 && !relaxed_simd) {
    throw new Failure("DeviceError", "LiteRT.js has threads only with relaxed SIMD, which this browser lacks");
  }
  const root = `${runtimes}/@litertjs/core`;
  const litert = await import(`${root}/dist/index.js`);
  // In a worker the runtime's script cannot tell where it came from.
  const script = new URL(`${root}/wasm/litert_wasm_threaded_internal.js`, self.location.origin).href;
  self.Module = { locateFile: (file) => `${root}/wasm/${file}`, mainScriptUrlOrBlob: script };
  await litert.loadLiteRt(`${root}/wasm/`, { threads: threads > 1 });
  const details = {
    runtime: "litert-web", version: versions["@litertjs/core"], input_dtype: "float32", batch: 1,
    xnnpack_partitions: null,
  };
  return { details, load: (bytes, name, images) => load(litert, bytes, name, images, threads) };
}

async function load(litert, bytes, name, { height, width }, threads) {
  let model;
  try {
    model = await litert.loadAndCompile(bytes, { accelerator: "wasm", cpuOptions: { numThreads: threads } });
  } catch (error) {
    throw unloadable(name, error);
  }
  check(model, name, height, width);
  const floats = new Float32Array(height * width * 3);
  return {
    async run(pixels) {
      floats.set(pixels);
      const image = new litert.Tensor(floats, [1, height, width, 3]);
      const [embedding] = await model.run([image]);
      const values = embedding.toTypedArray();
      image.delete();
      embedding.delete();
      return values;
    },
  };
}

// LiteRT.js cannot even describe a tensor of int8: it names the type and gives up.
function unloadable(name, error) {
  const type = /Element type (\w+) is not supported/.exec(error?.message)?.[1].toLowerCase();
  if (type) return notFloat(name, type);
  return new Failure("ModelError", `cannot load ${name} with LiteRT.js: ${oneLine(error)}`);
}

function notFloat(name, type) {
  const remedy = "take the bundle's int8 or fp32 model, whose input and output are float32";
  return new Failure("ModelError", `${name} has ${type} input or output, LiteRT.js needs float32: ${remedy}`);
}

function check(model, name, height, width) {
  const inputs = model.getInputDetails(), outputs = model.getOutputDetails();
  const other = [...inputs, ...outputs].find((port) => port.dtype !== "float32");
  if (other) throw notFloat(name, other.dtype);
  const [source] = inputs, [target] = outputs;
  const taken = inputs.length === 1 && source.name === "image" && source.shape.length === 4 && source.shape[3] === 3;
  const given = outputs.length === 1 && target.name === "embedding" && target.shape.length === 2;
  if (!taken || !given) {
    const found = [...inputs, ...outputs].map((port) => `${port.name} [${port.shape}]`).join(", ");
    throw new Failure("ModelError", `${name} has ${found}, expected image [1, H, W, 3] and embedding [1, D]`);
  }
  if (source.shape[1] !== height || source.shape[2] !== width) {
    const model = `[N, ${source.shape[1]}, ${source.shape[2]}, 3]`;
    throw new Failure("DataError", `images are [N, ${height}, ${width}, 3], this model takes ${model}`);
  }
}
