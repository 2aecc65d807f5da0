class InvalidResult extends $Error {
  constructor(path, problem) {
    super(`${path}: expected what JSON can hold, got ${problem}`);
    this.path = path;
  }
}
defineProperty(InvalidResult.prototype, "name", { value: "InvalidResult" });

// What the host keeps of an error's code and details.
const MAX_CODE_CHARS = 64, MAX_DETAILS_CHARS = 4096;

const $fail = (code, message = code, details = undefined) => {
  const error = new $Error($String(message));
  const set = (key, value) => {
    defineProperty(error, key, { __proto__: null, value, enumerable: true, writable: true, configurable: true });
  };
  set("code", code);
  if (details !== undefined) set("details", details);
  throw error;
};

class PermissionDenied extends $Error {}
defineProperty(PermissionDenied.prototype, "name", { value: "PermissionDenied" });
