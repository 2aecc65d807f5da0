// What a handler finds in its world. Runs once per handler, before it is compiled; then a snapshot is taken, and every job
// begins from that. Whatever the handler does to it ends with its job. The host trusts nothing that comes from here: it
// checks capabilities, bounds and JSON again.
//
// The host gives the h_ functions, which take strings. For a job it calls main(args) and, when that returns undefined,
// runs pending jobs and calls finish(). Every instruction here is paid for by every job: what is rare is lazy.
(() => {
  "use strict";

  // Everything used while a handler runs is taken now, before it can be tampered with.
  const { parse, stringify } = JSON;
  const { apply, ownKeys, getPrototypeOf, defineProperty } = Reflect;
  const { create, freeze, keys: objectKeys, prototype: objectPrototype } = Object;
  const { isArray, prototype: arrayPrototype } = Array;
  const { isFinite: numberIsFinite } = Number;
  const $Error = Error, $TypeError = TypeError, $Promise = Promise, $Proxy = Proxy, $String = String;
  const $Map = Map, $Set = Set, $Date = Date, $BigInt = BigInt, $SyntaxError = SyntaxError, $EvalError = EvalError;
  const $Number = Number, $Symbol = Symbol;
  const $ArrayBuffer = ArrayBuffer, $DataView = DataView, $WeakMap = WeakMap, $WeakSet = WeakSet, $RegExp = RegExp;
  const { bind, call } = Function.prototype;
  const uncurry = (method) => apply(bind, call, [method]);
  const then = uncurry(Promise.prototype.then);
  const isWellFormed = uncurry(String.prototype.isWellFormed);
  const toWellFormed = uncurry(String.prototype.toWellFormed);
  const setHas = uncurry(Set.prototype.has);
  const join = uncurry(arrayPrototype.join);
  const errorToString = uncurry(Error.prototype.toString);
  const typedArrayTag = uncurry(
    Object.getOwnPropertyDescriptor(getPrototypeOf(Uint8Array.prototype), Symbol.toStringTag).get,
  );
  const hostGet = globalThis.h_state_get, hostHas = globalThis.h_state_has;
  const hostKeys = globalThis.h_state_keys, hostLog = globalThis.h_log;
  const hostScope = globalThis.h_scope, hostSeed = globalThis.h_seed, hostNow = globalThis.h_now;
  for (const name of ownKeys(globalThis)) if (typeof name === "string" && name.startsWith("h_")) delete globalThis[name];

  const MAX_DEPTH = 64;

  // -- errors -------------------------------------------------------------------------------------------------

  class InvalidResult extends $Error {
    constructor(path, problem) {
      super(`${path}: expected what JSON can hold, got ${problem}`);
      this.path = path;
    }
  }
  defineProperty(InvalidResult.prototype, "name", { value: "InvalidResult" });

  class PermissionDenied extends $Error {}
  defineProperty(PermissionDenied.prototype, "name", { value: "PermissionDenied" });

  // -- JSON ---------------------------------------------------------------------------------------------------

  // Where the walk is, as keys from the root: turned into words only when something is wrong.
  let trail = [], open = [];

  function invalid(origin, depth, problem) {
    let path = origin;
    for (let index = 0; index < depth; index++) {
      const key = trail[index];
      path +=
        typeof key === "number" ? `[${key}]` : /^[A-Za-z_$][\w$]*$/.test(key) ? `.${key}` : `[${stringify(key)}]`;
    }
    return new InvalidResult(path, problem);
  }

  // The JSON text of a value, or InvalidResult with the path of what JSON cannot hold. Like JSON.stringify it honours toJSON
  // and leaves out properties that are undefined; unlike it, it never turns a value into null without a word.
  function encode(value, origin) {
    switch (typeof value) {
      case "number":
        if (numberIsFinite(value)) return value === 0 ? "0" : $String(value);
        break;
      case "string":
        if (isWellFormed(value)) return stringify(value);
        break;
      case "boolean":
        return value ? "true" : "false";
      case "object":
        if (value === null) return "null";
    }
    validate(value, origin, 0);
    return stringify(value);
  }

  function validate(value, origin, depth) {
    switch (typeof value) {
      case "string":
        if (!isWellFormed(value)) throw invalid(origin, depth, "a string with a lone surrogate");
        return;
      case "number":
        if (!numberIsFinite(value)) throw invalid(origin, depth, $String(value));
        return;
      case "boolean":
        return;
      case "undefined":
        throw invalid(origin, depth, "undefined");
      case "bigint":
        throw invalid(origin, depth, "a BigInt; convert it by Number() or String()");
      case "symbol":
        throw invalid(origin, depth, "a symbol");
      case "function":
        throw invalid(origin, depth, "a function");
    }
    if (value === null) return;
    const convert = value.toJSON;
    if (typeof convert === "function") {
      const converted = apply(convert, value, [""]);
      if (converted === null && value instanceof $Date) throw invalid(origin, depth, "an invalid Date");
      if (converted !== value) return validate(converted, origin, depth);
    }
    if (depth >= MAX_DEPTH) throw invalid(origin, depth, `nesting deeper than ${MAX_DEPTH}`);
    for (let index = 0; index < depth; index++) {
      if (open[index] === value) throw invalid(origin, depth, "a reference to itself");
    }
    open[depth] = value;
    if (isArray(value)) {
      const length = value.length;
      for (let index = 0; index < length; index++) {
        const item = value[index];
        if (typeof item === "number" && numberIsFinite(item)) continue;
        trail[depth] = index;
        validate(item, origin, depth + 1);
      }
      return;
    }
    const odd = oddity(value);
    if (odd) throw invalid(origin, depth, odd);
    const keys = objectKeys(value);
    for (let index = 0; index < keys.length; index++) {
      const key = keys[index];
      const item = value[key];
      if (item === undefined) continue;
      trail[depth] = key;
      if (!isWellFormed(key)) throw invalid(origin, depth, "a key with a lone surrogate");
      validate(item, origin, depth + 1);
    }
  }

  function oddity(value) {
    const prototype = getPrototypeOf(value);
    if (prototype === objectPrototype || prototype === null) return "";
    if (value instanceof $Map) return "a Map; use Object.fromEntries()";
    if (value instanceof $Set) return "a Set; spread it into an array";
    if (value instanceof $Promise) return "a promise; await it";
    if (value instanceof $RegExp) return "a regular expression";
    if (value instanceof $WeakMap || value instanceof $WeakSet || value instanceof WeakRef) return "a weak collection";
    if (value instanceof $ArrayBuffer || value instanceof $DataView) return "binary data; use Array.from()";
    if (typedArrayTag(value) !== undefined) return "a typed array; use Array.from()";
    // JSON.stringify unwraps these
    if (value instanceof $Number) return numberIsFinite(+value) ? "" : $String(+value);
    if (value instanceof $String) return isWellFormed($String(value)) ? "" : "a string with a lone surrogate";
    if (value instanceof $BigInt) return "a BigInt; convert it by Number() or String()";
    if (value instanceof $Symbol) return "a symbol";
    return "";
  }

  // -- state --------------------------------------------------------------------------------------------------

  // key → { value, text, written }: text is the JSON it was read from, undefined when there was none
  let entries = create(null);
  let order = [];
  let asked = false;

  function wellFormed(key) {
    if (!isWellFormed(key)) throw new InvalidResult(`$state[${stringify(key)}]`, "a key with a lone surrogate");
    return key;
  }

  function entry(key) {
    let found = entries[key];
    if (found === undefined) {
      wellFormed(key);
      const text = hostGet(key);
      if (text === null) throw new PermissionDenied(`expected the capability state:read:${key}`);
      found = { value: text === undefined ? undefined : parse(text), text, written: false };
      entries[key] = found;
      order[order.length] = key;
    }
    return found;
  }

  function check(key) {
    if (typeof key !== "string") throw new $TypeError(`expected a state key that is a string, got ${typeof key}`);
    return key;
  }

  function write(key, value) {
    let found = entries[key];
    if (found === undefined) {
      wellFormed(key);
      // what was there is not needed: it is neither read nor parsed
      found = entries[key] = { value: undefined, text: undefined, written: true };
      order[order.length] = key;
    }
    found.value = value;
    found.written = true;
  }

  function allKeys() {
    asked = true;
    const keys = parse(hostKeys());
    const known = new $Set(keys);
    const result = [];
    for (let index = 0; index < keys.length; index++) {
      const found = entries[keys[index]];
      if (found === undefined || found.value !== undefined) result[result.length] = keys[index];
    }
    for (let index = 0; index < order.length; index++) {
      const key = order[index];
      if (!setHas(known, key) && entries[key].value !== undefined) result[result.length] = key;
    }
    return result;
  }

  function has(key) {
    const found = entries[key];
    if (found !== undefined) return found.value !== undefined;
    asked = true;
    const answer = hostHas(wellFormed(key));
    if (answer === null) throw new PermissionDenied(`expected the capability state:read:${key}`);
    return answer;
  }

  const methods = freeze({
    __proto__: null,
    get(key, otherwise) {
      const value = entry(check(key)).value;
      return value === undefined ? otherwise : value;
    },
    set(key, value) {
      write(check(key), value);
      return value;
    },
    delete(key) {
      const existed = has(check(key));
      write(key, undefined);
      return existed;
    },
    has: (key) => has(check(key)),
    keys: () => allKeys(),
    update(key, change) {
      if (typeof change !== "function") throw new $TypeError("$state.update: expected a function");
      const value = change(entry(check(key)).value);
      write(key, value);
      return value;
    },
  });

  const $state = new $Proxy(create(null), {
    get(_, key) {
      if (typeof key !== "string") return undefined;
      return methods[key] ?? entry(key).value;
    },
    set(_, key, value) {
      write(check(key), value);
      return true;
    },
    has: (_, key) => typeof key === "string" && has(key),
    deleteProperty(_, key) {
      if (typeof key === "string") write(key, undefined);
      return true;
    },
    ownKeys: () => allKeys(),
    getOwnPropertyDescriptor(_, key) {
      if (typeof key !== "string" || !has(key)) return undefined;
      return { value: entry(key).value, writable: true, enumerable: true, configurable: true };
    },
    defineProperty(_, key, descriptor) {
      if (!("value" in descriptor)) throw new $TypeError("$state: expected a value, got a getter or setter");
      write(check(key), descriptor.value);
      return true;
    },
    getPrototypeOf: () => null,
    setPrototypeOf: () => false,
    preventExtensions: () => false,
  });

  function encodeAt(key, value) {
    try {
      return encode(value, "");
    } catch (error) {
      if (!(error instanceof InvalidResult)) throw error;
      const path = /^[A-Za-z_$][\w$]*$/.test(key) ? `$state.${key}` : `$state[${stringify(key)}]`;
      error.message = path + error.message;
      error.path = path + error.path;
      throw error;
    }
  }

  // One [key, text] for each key that differs from what it was, [key] for one that is gone.
  function mutations() {
    let text = "";
    for (let index = 0; index < order.length; index++) {
      const key = order[index];
      const { value, text: before, written } = entries[key];
      if (value === undefined) {
        if (written) text += `${text && ","}[${stringify(key)}]`;
        continue;
      }
      if (!written || before !== undefined) {
        if (before !== undefined && (typeof value !== "object" || value === null)) {
          if (value === parse(before)) continue;
        } else if (before !== undefined) {
          // cheap and native first: most values that were read have not changed
          let now;
          try {
            now = stringify(value);
          } catch {
            now = undefined; // a cycle or a BigInt: encode says where
          }
          if (now === before || (now !== undefined && now === stringify(parse(before)))) continue;
        }
      }
      text += `${text && ","}[${stringify(key)},${encodeAt(key, value)}]`;
    }
    return text;
  }

  // -- everything else ----------------------------------------------------------------------------------------

  let events = "", views = "";

  function named(what, name) {
    if (typeof name !== "string" || !name) throw new $TypeError(`expected ${what} that is a string, got ${typeof name}`);
    if (!isWellFormed(name)) throw new InvalidResult(what, "a string with a lone surrogate");
    return stringify(name);
  }

  const $emit = (name, payload = null) => {
    const quoted = named("an event name", name);
    events += `${events && ","}[${quoted},${encode(payload, "payload")}]`;
  };
  defineProperty($emit, "toast", {
    value: (message, type = "info") => $emit("toast", { message: $String(message), type: $String(type) }),
  });

  const command = (view, name, params = null) => {
    views += `${views && ","}[${named("a view id", view)},${named("a view command", name)},${encode(params, "params")}]`;
  };
  const $view = freeze({
    __proto__: null,
    setFilter: (view, filter = null) => command(view, "setFilter", { filter }),
    scrollTo: (view, target = null) => command(view, "scrollTo", { target }),
    focus: (view, target = null) => command(view, "focus", { target }),
    command,
  });

  const show = (value) => {
    if (typeof value === "string") return value;
    if (value instanceof $Error) return `${errorToString(value)}\n${value.stack ?? ""}`;
    try {
      const text = typeof value === "object" && value !== null ? stringify(value) : undefined;
      return text === undefined ? $String(value) : text;
    } catch {
      return "[a value that cannot be shown]";
    }
  };
  const logger = (level) => (...values) => {
    for (let index = 0; index < values.length; index++) values[index] = show(values[index]);
    hostLog(level, toWellFormed(join(values, " ")));
  };
  const $log = freeze({ __proto__: null, debug: logger("0"), info: logger("1"), warn: logger("2"), error: logger("3") });
  const console = { debug: $log.debug, log: $log.info, info: $log.info, warn: $log.warn, error: $log.error, trace: $log.debug };

  const $ext = new $Proxy(create(null), {
    get: (_, name) =>
      typeof name !== "string" || name === "then"
        ? undefined
        : new $Proxy(create(null), {
            get: (_, method) =>
              typeof method !== "string" || method === "then"
                ? undefined
                : () => $Promise.reject(new $Error(`no extension ${stringify(name)} is registered`)),
          }),
  });

  // -- clock and randomness: the job's own --------------------------------------------------------------------

  let clock;
  const now = () => (clock === undefined ? (clock = +hostNow()) : clock);
  let seeded = false, s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  // sfc32: small, fast, and the same for the same job; seeded at first use, as few handlers want it
  const random = () => {
    if (!seeded) {
      const seed = parse(hostSeed());
      seeded = true, s0 = seed[0], s1 = seed[1], s2 = seed[2], s3 = 1;
      for (let round = 0; round < 12; round++) random();
    }
    s0 >>>= 0; s1 >>>= 0; s2 >>>= 0; s3 >>>= 0;
    let mixed = (s0 + s1) | 0;
    s0 = s1 ^ (s1 >>> 9);
    s1 = (s2 + (s2 << 3)) | 0;
    s2 = (s2 << 21) | (s2 >>> 11);
    s3 = (s3 + 1) | 0;
    mixed = (mixed + s3) | 0;
    s2 = (s2 + mixed) | 0;
    return mixed >>> 0;
  };
  defineProperty(Math, "random", {
    value: () => ((random() >>> 5) * 67108864 + (random() >>> 6)) / 9007199254740992,
    writable: true,
    configurable: true,
  });
  delete globalThis.performance;
  delete globalThis.gc;

  const fixed = (name, value) => defineProperty(globalThis, name, { value, writable: false, configurable: false });
  fixed("$state", $state);
  fixed("$emit", $emit);
  fixed("$view", $view);
  fixed("$log", $log);
  fixed("$ext", $ext);
  fixed("$time", freeze({ __proto__: null, now: () => now() }));
  defineProperty(globalThis, "console", { value: console, writable: true, configurable: true });
  defineProperty(globalThis, "$args", { value: null, writable: true, configurable: true });
  let scope;
  defineProperty(globalThis, "$scope", {
    get: () => (scope === undefined ? (scope = parse(hostScope())) : scope),
    configurable: false,
  });

  // -- no code from strings -----------------------------------------------------------------------------------

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

  // -- the run ------------------------------------------------------------------------------------------------

  const world = globalThis;
  let handler;
  let settled = false, value, failure, failed = false;

  function settle(error, result) {
    if (settled) return;
    settled = true;
    if (error) {
      failed = true;
      failure = error.thrown;
    } else value = result;
  }

  function described(thrown) {
    const out = create(null);
    if (thrown instanceof $Error || (typeof thrown === "object" && thrown !== null && "message" in thrown)) {
      const text = (field) => {
        try {
          return $String(thrown[field] ?? "");
        } catch {
          return "";
        }
      };
      out.name = text("name") || "Error";
      out.message = text("message");
      out.stack = text("stack");
      if (thrown instanceof InvalidResult) {
        out.kind = "INVALID_RESULT";
        out.path = thrown.path;
      } else if (thrown instanceof PermissionDenied) out.kind = "PERMISSION_DENIED";
    } else {
      out.name = "thrown value";
      out.message = show(thrown);
    }
    return stringify(out, (_, item) => (typeof item === "string" ? toWellFormed(item) : item));
  }

  function finish() {
    if (!settled) return '{"pending":true}';
    if (failed) return `{"error":${described(failure)}}`;
    try {
      const result = value === undefined ? "null" : encode(value, "return value");
      return `{"result":${result},"mutations":[${mutations()}],"events":[${events}],"views":[${views}]}`;
    } catch (error) {
      return `{"error":${described(error)}}`;
    }
  }

  function main(args) {
    try {
      const result = handler((world.$args = parse(args)));
      if (typeof result === "object" && result !== null && typeof result.then === "function") {
        then(
          $Promise.resolve(result),
          (resolved) => settle(null, resolved),
          (thrown) => settle({ thrown }),
        );
        return undefined;
      }
      settle(null, result);
    } catch (thrown) {
      settle({ thrown });
    }
    return finish();
  }

  // Date without arguments is the job's time; everything else is the engine's own.
  const RealDate = $Date;
  const dateNow = () => now();
  defineProperty(RealDate, "now", { value: dateNow, writable: true, configurable: true });
  const JobDate = new $Proxy(RealDate, {
    construct: (target, args, newTarget) => Reflect.construct(target, args.length ? args : [now()], newTarget),
    apply: () => new RealDate(now()).toString(),
  });
  globalThis.Date = JobDate;
  defineProperty(RealDate.prototype, "constructor", { value: JobDate, writable: true, configurable: true });

  // Runs every path once before the snapshot, so that what the engine makes at first use is made, and then forgets it.
  function warm() {
    $state.warm = { list: [1, "a", null, true, { deep: 1.5 }] };
    $state.warm.list[0] = $state.other ?? 2;
    $emit("warm", { text: "a" });
    $view.focus("warm");
    const kept = handler;
    handler = () => $state.warm.list[0];
    main('{"by":[1,"a"]}');
    handler = () => {
      throw new $TypeError("warm");
    };
    settled = failed = false;
    main("null");
    handler = kept;
    entries = create(null), order = [], trail = [], open = [], events = views = "", settled = failed = asked = false;
    value = failure = clock = undefined, world.$args = null;
  }

  return {
    warm,
    main,
    finish,
    // Whether a source is the body of one function: the engine would also take one that ends it and goes on behind, but
    // none can do so in two functions that are closed by different brackets.
    probe(source, isAsync) {
      new SyncFunction(`return [{${isAsync ? "async " : ""}handler(){\n${source}\n}}]`);
    },
    body(source, isAsync) {
      handler = isAsync ? new AsyncFunction(source) : new SyncFunction(source);
    },
    module(exported) {
      if (typeof exported !== "function") {
        throw new $SyntaxError("expected `export default` of a function or async function");
      }
      // What the top level did with a job's things every job would find done: the handler begins from a snapshot.
      if (order.length || asked || events || views || seeded || clock !== undefined || scope !== undefined) {
        throw new $Error(
          "the top level of a module runs once, before any job: use $state, $emit, $view, $scope, $time, Date and Math.random in the exported function",
        );
      }
      handler = exported;
    },
    // What became of the top level of a module, a promise: it is pending, threw, or is done.
    watch(promise) {
      then(
        promise,
        () => settle(null, null),
        (thrown) => settle({ thrown }),
      );
    },
    watched() {
      if (failed) throw failure instanceof $Error ? failure : new $Error(show(failure));
      if (!settled) throw new $Error("the top level of a module awaits a promise that never settles");
    },
  };
})();
