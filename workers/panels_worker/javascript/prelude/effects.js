let events = "", views = "";

function named(what, name) {
  if (typeof name !== "string" || !name) {
    throw new $TypeError(`expected ${what} that is a string, got ${typeof name}`);
  }
  if (!isWellFormed(name)) throw new InvalidResult(what, "a string with a lone surrogate");
  return stringify(name);
}

const $emit = (name, payload = null, options = undefined) => {
  const quoted = named("an event name", name);
  let to = "";
  if (options !== undefined) {
    if (typeof options !== "object" || options === null || typeof options.to !== "string") {
      throw new $TypeError("expected $emit(name, payload, { to: subject }), got no subject that is a string");
    }
    to = `,${named("a subject", options.to)}`;
  }
  events += `${events && ","}[${quoted},${encode(payload, "payload")}${to}]`;
};
defineProperty($emit, "toast", {
  value: (message, type = "info") => $emit("toast", { message: $String(message), type: $String(type) }),
});

const command = (view, name, params = null) => {
  const quoted = `${named("a view id", view)},${named("a view command", name)}`;
  views += `${views && ","}[${quoted},${encode(params, "params")}]`;
};
const $view = freeze({
  __proto__: null,
  setFilter: (view, filter = null) => command(view, "setFilter", { filter }),
  scrollTo: (view, target = null) => command(view, "scrollTo", { target }),
  focus: (view, target = null) => command(view, "focus", { target }),
  command,
});
