// Before the handler is compiled: the top level of a module runs then, and could keep what it finds.
const AsyncFunction = getPrototypeOf(async () => {}).constructor;
const SyncFunction = Function;
{
  const refuse = (what) => {
    const refused = function () {
      throw new $EvalError(`${what} is not available: handlers cannot make code from strings`);
    };
    return refused;
  };
  globalThis.eval = refuse("eval");
  for (const [sample, what] of [
    [function () {}, "Function"],
    [async function () {}, "AsyncFunction"],
    [function* () {}, "GeneratorFunction"],
    [async function* () {}, "AsyncGeneratorFunction"],
  ]) {
    const prototype = getPrototypeOf(sample);
    const refused = refuse(what);
    defineProperty(refused, "prototype", { value: prototype });
    defineProperty(refused, "name", { value: what });
    defineProperty(prototype, "constructor", { value: refused });
    if (what === "Function") globalThis.Function = refused;
  }
}
