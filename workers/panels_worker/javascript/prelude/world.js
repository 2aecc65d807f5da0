delete globalThis.gc;

// -- what ordinary code expects of any host ---------------------------------------------------------------

const visible = (name, value) => {
  defineProperty(globalThis, name, { value, writable: true, configurable: true });
};
visible("self", globalThis);
visible("global", globalThis);
visible("console", console);
visible("TextEncoder", TextEncoder);
visible("TextDecoder", TextDecoder);
visible("structuredClone", structuredClone);
visible("process", { env: { NODE_ENV: "production" } });
// the clock stands still for the whole job
visible("performance", {
  now: () => 0,
  get timeOrigin() {
    return now();
  },
});
const settledPromise = $Promise.resolve();
visible("queueMicrotask", (callback) => {
  if (typeof callback !== "function") throw new $TypeError("queueMicrotask: expected a function");
  // what it throws becomes a rejection, and so is not lost
  then(settledPromise, () => void callback());
});

const hex = (number, digits) => padStart(numberToString(number, 16), digits, "0");
visible("crypto", {
  getRandomValues(view) {
    const tag = typedArrayTag(view);
    if (tag === undefined || tag === "Float16Array" || tag === "Float32Array" || tag === "Float64Array") {
      throw new $TypeError("crypto.getRandomValues: expected a typed array of integers");
    }
    if (view.byteLength > 65536) {
      throw new $RangeError("crypto.getRandomValues: expected at most 65536 bytes");
    }
    const bytes = new $Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    for (let index = 0; index < bytes.length; index++) bytes[index] = random() >>> 24;
    return view;
  },
  randomUUID() {
    const low = hex(random(), 8), high = random(), clock = random();
    const version = hex(0x4000 | (high & 0x0fff), 4), variant = hex(0x8000 | (clock & 0x3fff), 4);
    return `${low}-${hex(high >>> 16, 4)}-${version}-${variant}-${hex(clock >>> 16, 4)}${hex(random(), 8)}`;
  },
});

// -- the job's own things ---------------------------------------------------------------------------------

const fixed = (name, value) => {
  defineProperty(globalThis, name, { value, writable: false, configurable: false });
};
defineProperty(globalThis, "$state", {
  get: () => $state,
  set: replaceState,
  enumerable: false,
  configurable: false,
});
fixed("$fail", $fail);
fixed("$id", $id);
fixed("$emit", $emit);
fixed("$view", $view);
fixed("$log", $log);
fixed("$ext", $ext);
fixed("$time", freeze({ __proto__: null, now: () => now() }));
visible("$args", null);
let scope;
const readScope = () => (scope === undefined ? (scope = parse(hostScope())) : scope);
defineProperty(globalThis, "$scope", { get: readScope, configurable: false });
const nobody = freeze({ __proto__: null });
defineProperty(globalThis, "$presence", { get: () => readScope().presence ?? nobody, configurable: false });
