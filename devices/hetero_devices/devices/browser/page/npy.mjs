// NumPy's .npy format, as far as images come in and embeddings go out.

const MAGIC = "\x93NUMPY";

// uint8 [N, H, W, 3] -> {count, height, width, pixels: Uint8Array}.
export function readImages(bytes) {
  const { header, data } = split(bytes);
  const shape = /'shape': \(([\d, ]*)\)/.exec(header)?.[1].split(",").filter((s) => s.trim()).map(Number) ?? [];
  const [count, height, width, channels] = shape;
  const right = /'descr': '\|u1'/.test(header) && /'fortran_order': False/.test(header) && shape.length === 4;
  if (!right || channels !== 3) throw new Error(`the images are ${header.trim()}, expected uint8 [N, H, W, 3]`);
  if (data.length !== count * height * width * 3) throw new Error(`the images are cut: ${data.length} bytes`);
  return { count, height, width, pixels: data };
}

// Float32Array of count * width numbers -> bytes of a float32 [count, width] file.
export function writeMatrix(values, count) {
  const fields = `{'descr': '<f4', 'fortran_order': False, 'shape': (${count}, ${values.length / count}), }`;
  const length = Math.ceil((10 + fields.length + 1) / 64) * 64; // the data begin at a multiple of 64
  const bytes = new Uint8Array(length + values.byteLength);
  const text = MAGIC + "\x01\x00" + "\x00\x00" + fields.padEnd(length - 11) + "\n";
  for (let i = 0; i < length; i++) bytes[i] = text.charCodeAt(i);
  new DataView(bytes.buffer).setUint16(8, length - 10, true);
  bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), length);
  return bytes;
}

function split(bytes) {
  const text = (from, to) => String.fromCharCode(...bytes.subarray(from, to));
  if (text(0, 6) !== MAGIC || ![1, 2].includes(bytes[6])) throw new Error("the images are no .npy file");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [start, length] = bytes[6] === 1 ? [10, view.getUint16(8, true)] : [12, view.getUint32(8, true)];
  return { header: text(start, start + length), data: bytes.subarray(start + length) };
}
