const world = globalThis;
let handler;
let settled = false, value, failure, failed = false;

// The promises that are rejected and that nobody handles. The engine's tracker of rejections, which the
// host installs in the image, writes to the storage of this array and nobody else does: it must never grow
// or shrink. The numbers are what the host finds the storage by.
const rejected = [];
for (let index = 0; index < 64; index++) rejected[index] = 12345.5 + index;
let unhandled = [], collected = false;

function collect() {
  collected = true;
  for (let index = 0; index < rejected.length; index++) {
    const promise = rejected[index];
    if (promise === null) continue;
    try {
      // this makes it a handled one, which the tracker takes off the list
      then(promise, undefined, (reason) => {
        unhandled[unhandled.length] = reason;
      });
    } catch (error) {
      unhandled[unhandled.length] = error;
    }
  }
}

function settle(error, result) {
  if (settled) return;
  settled = true;
  if (error) {
    failed = true;
    failure = error.thrown;
  } else value = result;
}

// What the error says to programs. The details travel as text: the host checks them before it believes them.
function coded(thrown, out) {
  try {
    const code = thrown.code;
    if (typeof code !== "string") return;
    out.code = substring(code, 0, MAX_CODE_CHARS + 1);
    const details = thrown.details;
    if (details === undefined) return;
    const text = encode(details, "details");
    if (text.length <= MAX_DETAILS_CHARS) out.details = text;
    else out.problem = `details: expected at most ${MAX_DETAILS_CHARS} bytes, got ${text.length}`;
  } catch (error) {
    // encode says what is wrong; a getter may throw anything
    out.problem = error instanceof InvalidResult ? error.message : "details: reading them threw";
  }
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
    else coded(thrown, out);
  } else {
    out.name = "thrown value";
    out.message = show(thrown);
  }
  return stringify(out, (_, item) => (typeof item === "string" ? toWellFormed(item) : item));
}

// Logs the rejections that nobody handled; the first of them fails the job, unless it has failed already.
function report() {
  for (let index = 0; index < unhandled.length; index++) {
    record(ERROR, `unhandled rejection: ${show(unhandled[index])}`);
  }
  if (unhandled.length && !failed) settled = failed = true, failure = unhandled[0];
  unhandled = [];
}

function finish() {
  if (collected) report();
  if (!settled) return mapSize(waiting) ? suspended() : '{"pending":true}';
  if (failed) return `{"error":${described(failure)}}`;
  try {
    const result = value === undefined ? "null" : encode(value, "return value");
    return `{"result":${result},"mutations":[${mutations()}],"events":[${events}],"views":[${views}]}`;
  } catch (error) {
    return `{"error":${described(error)}}`;
  }
}

let running = false;

function main(args) {
  running = true;
  try {
    const given = (world.$args = parse(args));
    // undefined lets the default of a parameter apply; null and no args at all are the same everywhere else too
    const result = handler(given === null ? undefined : given);
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
// The top level of a module has no time: it gets a date that is invalid, so that libraries load and nobody
// takes it for one.
const dateNow = () => (running ? now() : NaN);
defineProperty(RealDate, "now", { value: dateNow, writable: true, configurable: true });
const JobDate = new $Proxy(RealDate, {
  construct: (target, args, newTarget) => construct(target, args.length ? args : [dateNow()], newTarget),
  apply: () => new RealDate(dateNow()).toString(),
});
globalThis.Date = JobDate;
defineProperty(RealDate.prototype, "constructor", { value: JobDate, writable: true, configurable: true });

// Runs every path once before the snapshot, so that what the engine makes at first use is made, and then
// forgets it.
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
  try {
    callExtension("warm", "warm", [1]);
  } catch {} // nobody may
  mapSet(waiting, 1, { __proto__: null, resolve() {}, error: undefined, reject: undefined });
  resume('[[1,true,{"status":200}]]');
  suspended();
  handler = kept;
  entries = create(null), order = [], trail = [], open = [], events = views = "";
  settled = failed = asked = false;
  value = failure = clock = lastId = undefined, world.$args = null, unhandled = [], running = false;
}

// Whether anything of a job was used.
const touched = () =>
  order.length || asked || events || views || seeded || clock !== undefined || scope !== undefined;

// Makes an exported value the handler.
function begin(exported, expected) {
  if (typeof exported !== "function") throw new $SyntaxError(`expected ${expected}`);
  const prototype = Object.getOwnPropertyDescriptor(exported, "prototype");
  if (prototype !== undefined && !prototype.writable) {
    throw new $SyntaxError(`expected ${expected}, got a class`);
  }
  const kind = getPrototypeOf(exported);
  if (kind === generatorPrototype || kind === asyncGeneratorPrototype) {
    throw new $SyntaxError(`expected ${expected}, got a generator, whose body nobody would run`);
  }
  // What the top level did with a job's things every job would find done: the handler begins from a snapshot.
  if (touched()) {
    throw new $Error(
      "the top level of a module runs once, before any job: use $state, $emit, $view, $scope, $presence, " +
        "$time, $id " +
        "and Math.random in the exported function",
    );
  }
  handler = exported;
}
const generatorPrototype = getPrototypeOf(function* () {});
const asyncGeneratorPrototype = getPrototypeOf(async function* () {});

return {
  warm,
  main,
  resume,
  isPending: () => !settled,
  finish,
  // Whether a source is the body of one function: the engine would also take one that ends it and goes on
  // behind, but none can do so in two functions that are closed by different brackets.
  probe(source, isAsync) {
    new SyncFunction(`return [{${isAsync ? "async " : ""}handler(){\n${source}\n}}]`);
  },
  body(source, isAsync) {
    handler = isAsync ? new AsyncFunction(source) : new SyncFunction(source);
  },
  module(exported) {
    begin(exported, "`export default` of a function or async function");
  },
  // A source that is one expression, in a guest that is dropped afterwards: whether its value is a function.
  isFunction(source) {
    return typeof new SyncFunction(source)() === "function" && !touched();
  },
  expression(source) {
    begin(new SyncFunction(source)(), "a function or async function");
  },
  // What became of the top level of a module, a promise: it is pending, threw, or is done.
  watch(promise) {
    then(
      promise,
      () => settle(null, null),
      (thrown) => settle({ thrown }),
    );
  },
  // Puts one job into the engine's queue.
  enqueue() {
    then($Promise.resolve(), () => {});
  },
  collect,
  // Called once, before there is a handler: the host has found where the list is.
  forget() {
    for (let index = 0; index < rejected.length; index++) rejected[index] = null;
  },
  watched() {
    if (unhandled.length && !failed) failed = true, failure = unhandled[0];
    if (failed) throw failure instanceof $Error ? failure : new $Error(show(failure));
    if (!settled) throw new $Error("the top level of a module awaits a promise that never settles");
  },
};
