// Calls that wait for their answers, by number.
const waiting = new $Map();

function callExtension(name, method, args) {
  if (!running) throw new $Error("expected a job: the top level of a module cannot call extensions");
  while (args.length && args[args.length - 1] === undefined) args.length--;
  const number = hostCall(name, method, encode(args, `$ext.${name}.${method}`));
  if (number === null) throw new PermissionDenied(`expected the capability ext:${name} or ext:${name}.${method}`);
  if (number === undefined) {
    throw new $TypeError(`expected the names of an extension and a method, got ${show(name)} and ${show(method)}`);
  }
  // made here, so that it says where the call was
  const call = { __proto__: null, error: new $Error(""), resolve: undefined, reject: undefined };
  const promise = new $Promise((resolve, reject) => {
    call.resolve = resolve;
    call.reject = reject;
  });
  mapSet(waiting, +number, call);
  return promise;
}

const extensionMethod = (name, method) => (...args) => {
  try {
    return callExtension(toWellFormed(name), toWellFormed(method), args);
  } catch (error) {
    return rejectedPromise($Promise, error);
  }
};

const $ext = new $Proxy(create(null), {
  get: (_, name) =>
    typeof name !== "string" || name === "then"
      ? undefined
      : new $Proxy(create(null), {
          get: (_, method) =>
            typeof method !== "string" || method === "then" ? undefined : extensionMethod(name, method),
        }),
});

// Settles the promises of calls, in the order of their answers: rows of number, whether it went well, value.
function resume(text) {
  const answers = parse(text);
  for (let index = 0; index < answers.length; index++) {
    const number = answers[index][0], value = answers[index][2];
    const call = mapGet(waiting, number);
    if (call === undefined) continue;
    mapDelete(waiting, number);
    if (answers[index][1]) {
      call.resolve(value);
      continue;
    }
    const set = (key, text, enumerable) => {
      defineProperty(call.error, key, { __proto__: null, value: text, enumerable, writable: true, configurable: true });
    };
    set("message", $String(value.message), false);
    set("code", $String(value.code), true);
    call.reject(call.error);
  }
}

// What the handler did in this segment, as at the end. The next segment begins without what this one read: it
// has another state, time and seed.
function suspended() {
  try {
    const text = `"mutations":[${mutations()}],"events":[${events}],"views":[${views}]`;
    entries = create(null), order = [], trail = [], open = [], events = views = "";
    asked = seeded = false, clock = scope = lastId = undefined;
    return `{"pending":true,${text}}`;
  } catch (error) {
    return `{"error":${described(error)}}`;
  }
}
