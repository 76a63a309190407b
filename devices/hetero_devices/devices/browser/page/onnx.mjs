// ONNX Runtime Web, its WASM backend: input `image` uint8 [batch, H, W, 3], output `embedding` float32.

import { Failure, oneLine } from "./failure.mjs";

// Bring the runtime up, without a model; -> {details, load(bytes, name, images) -> session}.
export async function prepare({ threads, versions, runtimes }) {
  const ort = await import(`${runtimes}/onnxruntime-web/dist/ort.wasm.min.mjs`);
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "fatal";
  // The WASM module is compiled by the first session, even one that fails: it is no part of loading a model.
  await ort.InferenceSession.create(new Uint8Array(1)).catch(() => {});
  const details = {
    runtime: "onnxruntime-web", version: versions["onnxruntime-web"], input_dtype: "uint8", batch: null,
    xnnpack_partitions: null,
  };
  return { details, load: (bytes, name, images) => load(ort, bytes, name, images) };
}

async function load(ort, bytes, name, { height, width }) {
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] }).catch((error) => {
    throw new Failure("ModelError", `cannot load ${name} with ONNX Runtime Web: ${oneLine(error)}`);
  });
  check(session, name, height, width);
  return {
    async run(pixels) {
      const image = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
      const { embedding } = await session.run({ image });
      return embedding.data;
    },
  };
}

function check(session, name, height, width) {
  const ports = (all) => all.map((port) => `${port.name}: ${port.type} [${port.shape}]`).join(", ");
  const [source, ...others] = session.inputMetadata;
  const [target, ...extra] = session.outputMetadata;
  const taken = source?.name === "image" && source.type === "uint8" && source.shape?.length === 4;
  const given = target?.name === "embedding" && target.type === "float32" && target.shape?.length === 2;
  if (!taken || others.length || source.shape[3] !== 3) {
    const found = ports(session.inputMetadata);
    throw new Failure("ModelError", `${name} has inputs ${found}, expected image: uint8 [batch, H, W, 3]`);
  }
  if (!given || extra.length) {
    const found = ports(session.outputMetadata);
    throw new Failure("ModelError", `${name} has outputs ${found}, expected embedding: float32 [batch, D]`);
  }
  if (source.shape[1] !== height || source.shape[2] !== width) {
    const model = `[N, ${source.shape[1]}, ${source.shape[2]}, 3]`;
    throw new Failure("DataError", `images are [N, ${height}, ${width}, 3], this model takes ${model}`);
  }
}
