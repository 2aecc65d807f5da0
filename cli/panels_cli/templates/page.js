// The page of `panels up`. Whatever comes from a panel is shown as text, never as markup.
"use strict";
const at = (id) => document.getElementById(id);
const panel = decodeURIComponent(location.hash.slice(1));
const MAX_EVENTS = 100;
let state = {};
let socket = null;

at("panel").textContent = document.title = panel;
addEventListener("hashchange", () => location.reload());

function say(text) { at("status").textContent = text; }
function show() { at("state").textContent = JSON.stringify(state, null, 2); }

const hear = {
  CONNECTED(message) { state = message.state ?? {}; show(); say(`connected to ${socket.url.split("?")[0]}`); },
  PATCH({ mutations }) {
    for (const { op, key, value } of mutations) {
      if (op === "set") Object.defineProperty(state, key, { value, enumerable: true, configurable: true, writable: true });
      else delete state[key];
    }
    show();
  },
  EVENT({ event }) {
    const line = document.createElement("li");
    line.textContent = `${event.name} ${JSON.stringify(event.payload)}`;
    at("events").prepend(line);
    while (at("events").childElementCount > MAX_EVENTS) at("events").lastChild.remove();
  },
  RESULT({ result }) { at("answer").textContent = JSON.stringify(result.returnValue, null, 2); },
  ERROR({ code, message }) { at("answer").textContent = `${code}: ${message}`; },
};

async function describe() {
  const found = await (await fetch("panels.json")).json();
  const chosen = at("tool").value;
  at("tool").replaceChildren(...(found.tools[panel] ?? []).map((name) => new Option(name, name, false, name === chosen)));
  return found;
}

async function connect() {
  try {
    const { gateway, token } = await describe();
    const protocols = ["panels.v1", ...(token ? [`bearer.${token}`] : [])];
    socket = new WebSocket(`${gateway.replace("http", "ws")}/panels/${encodeURIComponent(panel)}/ws`, protocols);
    socket.onmessage = ({ data }) => { const message = JSON.parse(data); hear[message.type]?.(message); };
    socket.onclose = ({ reason }) => again(reason || "no reason came");
  } catch {
    again("panels up does not answer");
  }
}

function again(why) {
  say(`not connected: ${why}; trying again`);
  setTimeout(connect, 1000);
}

addEventListener("focus", () => describe().catch(() => {}));
at("call").addEventListener("submit", (event) => {
  event.preventDefault();
  let args;
  try {
    args = JSON.parse(at("args").value);
  } catch (error) {
    at("answer").textContent = `expected arguments in JSON: ${error.message}`;
    return;
  }
  if (socket?.readyState !== WebSocket.OPEN) { at("answer").textContent = "not connected: call again in a moment"; return; }
  socket.send(JSON.stringify({ type: "TRIGGER", tool: at("tool").value, args }));
});
connect();
