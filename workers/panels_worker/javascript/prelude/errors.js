class InvalidResult extends $Error {
  constructor(path, problem) {
    super(`${path}: expected what JSON can hold, got ${problem}`);
    this.path = path;
  }
}
defineProperty(InvalidResult.prototype, "name", { value: "InvalidResult" });

class PermissionDenied extends $Error {}
defineProperty(PermissionDenied.prototype, "name", { value: "PermissionDenied" });
