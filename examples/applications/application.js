// What every page of these applications needs: the panel, how the connection stands, and a place for errors.
import { connect } from "./client.js";

// scripts/demo gives #gateway=ws://…&token=…: the fragment is sent to no server, and leaves the address bar here.
const given = new URLSearchParams(location.hash.slice(1));
for (const name of ["gateway", "token"]) if (given.has(name)) sessionStorage.setItem(name, given.get(name));
if (given.has("token")) history.replaceState(null, "", location.pathname);

const gateway = sessionStorage.getItem("gateway") ?? `ws://${location.hostname || "127.0.0.1"}:3001`;
const token = sessionStorage.getItem("token") ?? undefined;

/** The `sub` of the token: whoever looks at the page. The gateway checks the token; this only reads it. */
export const me = subject() ?? "somebody";

function subject() {
  try {
    const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(claims), (c) => c.charCodeAt(0)))).sub;
  } catch {
    return undefined;
  }
}

/** An element with properties and children. Text goes in as text, never as HTML. */
export function make(tag, properties = {}, ...children) {
  const { dataset, ...others } = properties;
  const node = Object.assign(document.createElement(tag), others);
  Object.assign(node.dataset, dataset);
  node.append(...children.filter((child) => child !== null));
  return node;
}

const status = document.getElementById("status");
const alert = document.getElementById("alert");
let hide = 0;

/** Shows an error for some seconds; a screen reader says it at once. */
export function complain(text) {
  alert.textContent = text;
  clearTimeout(hide);
  hide = setTimeout(() => { alert.textContent = ""; }, 8_000);
}

/** Connects to the panel; `draw(state)` runs whenever its state has changed. `options` are those of `connect`. */
export function open(panelId, draw, options = {}) {
  const panel = connect(gateway, { panel: panelId, token, ...options });
  const tell = () => {
    status.dataset.status = panel.status;
    status.textContent = panel.status === "closed" ? `closed: ${panel.reason}` : panel.status;
  };
  panel.onStatus(tell);
  tell();
  panel.subscribe((state) => state, () => draw(panel.state));
  panel.ready.then(() => draw(panel.state), (error) => complain(error.message));
  return panel;
}

/**
 * What people read of an error: where the handler gave it a code, its own sentence; otherwise what the client says, with the
 * code of the protocol before it.
 */
export function sentence(error) {
  return error.details?.handlerCode ? error.message.slice(error.code.length + 2) : error.message;
}

/** Calls a tool and shows what goes wrong; undefined then. */
export async function call(panel, tool, args, options) {
  try {
    return (await panel.call(tool, args, options)).value;
  } catch (error) {
    complain(sentence(error));
    return undefined;
  }
}

/** What the gateway answers to a GET of `path`. Throws an `Error` with its sentence. */
export async function fetchJson(path) {
  const headers = token === undefined ? {} : { Authorization: `Bearer ${token}` };
  const response = await fetch(new URL(path, gateway.replace(/^ws/, "http")), { headers });
  const body = await response.json();
  if (!response.ok) throw new Error(body.message ?? response.statusText);
  return body;
}

/** The values of all keys that begin with `prefix`, each with its key's rest as `id`. */
export function values(state, prefix) {
  return Object.entries(state)
    .filter(([key]) => key.startsWith(prefix))
    .map(([key, value]) => ({ id: key.slice(prefix.length), ...value }));
}

/** A form with one text field, which is emptied once `send` has taken the text. */
export function textForm(label, action, send, maxLength = 500) {
  const input = make("input", { placeholder: label, ariaLabel: label, maxLength, required: true });
  const form = make("form", {}, input, make("button", { className: "primary" }, action));
  form.onsubmit = async (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (!text) return;
    input.value = "";
    // what failed is put back, unless something else has been typed meanwhile
    if ((await send(text)) === undefined && !input.value) input.value = text;
  };
  return form;
}
