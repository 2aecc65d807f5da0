import { call, complain, fetchJson, make, open, textForm, values } from "../application.js";

const main = document.getElementById("main");
const messages = make("ul", { id: "messages", className: "card", role: "log", ariaLabel: "Messages" });
const waiting = make("p", { className: "dim", ariaLive: "polite" });
const questions = make("div", { ariaLive: "polite" });
const asked = new Map();

const here = make("p", { className: "dim", id: "here", ariaLive: "polite" });
const panel = open("moderated-chat", draw, { topics: ["state", "events", "presence"] });
panel.onPresence(({ clients, subjects }) => {
  const names = Object.keys(subjects).sort();
  here.textContent = names.length ? `Here: ${names.join(", ")}` : `Here: ${clients}`;
});
const say = textForm("Say something", "Say", async (text) => {
  const note = "Your message waits for a moderator.";
  const value = await call(panel, "say", { text }, { onProgress: () => { waiting.textContent = note; } });
  waiting.textContent = "";
  return value;
});
main.append(here, messages, say, waiting, questions,
  make("p", { className: "dim" }, "Messages with the words ", make("span", { id: "words" }), " wait until somebody lets them through."));

// A question is an event. Those that were asked before this page came are asked for.
panel.on("human.asked", ({ payload }) => ask(payload));
panel.ready.then(async () => {
  for (const { id, waitsFor } of (await fetchJson("/panels/moderated-chat/suspensions")).suspensions) {
    for (const { call: number, args } of waitsFor) ask({ suspensionId: id, call: number, args });
  }
}).catch((error) => complain(error.message));

function ask({ suspensionId, call: number, args }) {
  const name = `${suspensionId} ${number}`;
  if (asked.has(name)) return;
  const reply = async (value) => {
    try {
      await panel.answer(suspensionId, value, number);
    } catch (error) {
      complain(error.message); // somebody else was first, or the token may not answer
    }
    asked.get(name)?.remove();
  };
  const card = make("div", { className: "card question" }, String(args[0]),
    make("div", { className: "row" },
      make("button", { type: "button", className: "primary", onclick: () => reply(true) }, "Let it through"),
      make("button", { type: "button", onclick: () => reply(false) }, "Refuse")));
  asked.set(name, card);
  questions.append(card);
}

function draw(state) {
  document.getElementById("words").textContent = state.forbidden.join(", ");
  const atEnd = messages.scrollTop + messages.clientHeight >= messages.scrollHeight - 8;
  const found = values(state, "message:").sort((a, b) => Number(a.id) - Number(b.id));
  messages.replaceChildren(...found.map(({ from, text, at, approved }) =>
    make("li", {}, make("b", {}, from), text, " ",
      make("time", { className: "dim", dateTime: new Date(at).toISOString() }, new Date(at).toLocaleTimeString()),
      approved ? make("span", { className: "dim" }, " · let through") : null)));
  if (!found.length) messages.append(make("li", { className: "dim" }, "Nobody has said anything yet."));
  if (atEnd) messages.scrollTop = messages.scrollHeight;
}
