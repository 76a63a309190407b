// An error with the name of one of the library's, so that the host raises it with the right kind.

export class Failure extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

// A runtime's own message, cut to what fits a line.
export function oneLine(error) {
  const text = String(error?.message ?? error).replace(/\s+/g, " ").trim() || "it said nothing";
  return text.length <= 200 ? text : `${text.slice(0, 197)}...`;
}

export function described(error) {
  if (error instanceof Failure) return { error: error.kind, message: error.message };
  return { error: "DeviceError", message: `the page failed: ${oneLine(error)}` };
}
