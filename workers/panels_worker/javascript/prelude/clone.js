// structuredClone, without transfers: everything that the HTML standard lets cross and that exists in this
// engine.
function cannotClone(what) {
  const error = new $Error(`${what} could not be cloned`);
  defineProperty(error, "name", { value: "DataCloneError", configurable: true, writable: true });
  return error;
}

function cloned(value, seen) {
  if (typeof value === "function" || typeof value === "symbol") throw cannotClone($String(value));
  if (typeof value !== "object" || value === null) return value;
  const known = mapGet(seen, value);
  if (known !== undefined) return known;
  const keep = (copy) => (mapSet(seen, value, copy), copy);
  if (value instanceof $Date) return keep(new $Date(+value));
  if (value instanceof $RegExp) return keep(new $RegExp(value.source, value.flags));
  for (const Wrapper of [$Number, $String, $Boolean, $BigInt]) {
    if (value instanceof Wrapper) return keep($Object(value.valueOf()));
  }
  if (value instanceof $ArrayBuffer) return keep(value.slice(0));
  if (isView(value)) {
    const buffer = cloned(value.buffer, seen);
    const name = value instanceof $DataView ? "DataView" : typedArrayTag(value);
    return keep(new views_by_name[name](buffer, value.byteOffset, value.length ?? value.byteLength));
  }
  if (value instanceof $Map) {
    const copy = keep(new $Map());
    for (const [key, item] of value) mapSet(copy, cloned(key, seen), cloned(item, seen));
    return copy;
  }
  if (value instanceof $Set) {
    const copy = keep(new $Set());
    for (const item of value) copy.add(cloned(item, seen));
    return copy;
  }
  if (value instanceof $Error) return clonedError(value, seen, keep);
  if (value instanceof $Promise) throw cannotClone("a promise");
  if (value instanceof $WeakMap || value instanceof $WeakSet || value instanceof $WeakRef) {
    throw cannotClone("a weak collection");
  }
  const copy = keep(isArray(value) ? new $Array(value.length) : {});
  const keys = objectKeys(value);
  for (let index = 0; index < keys.length; index++) {
    const item = cloned(value[keys[index]], seen);
    defineProperty(copy, keys[index], {
      __proto__: null, value: item, writable: true, enumerable: true, configurable: true,
    });
  }
  return copy;
}

function clonedError(value, seen, keep) {
  const name = $String(value.name);
  const copy = keep(new (errors_by_name[name] ?? $Error)($String(value.message)));
  const set = (key, item) => {
    defineProperty(copy, key, { __proto__: null, value: item, writable: true, configurable: true });
  };
  set("stack", $String(value.stack ?? ""));
  if (hasOwn(value, "cause")) set("cause", cloned(value.cause, seen));
  return copy;
}

const views_by_name = { __proto__: null, DataView };
for (const view of [
  Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array, Float32Array,
  Float64Array, BigInt64Array, BigUint64Array,
]) views_by_name[view.name] = view;
if (typeof Float16Array === "function") views_by_name.Float16Array = Float16Array;
const errors_by_name = {
  __proto__: null, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError,
};

function structuredClone(value, options = undefined) {
  if (options?.transfer?.length) throw new $TypeError("structuredClone: expected nothing to transfer");
  return cloned(value, new $Map());
}
