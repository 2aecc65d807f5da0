import { call, make, open, textForm, values } from "../application.js";

const main = document.getElementById("main");
const task = make("p", { ariaLive: "polite" });
const steps = make("ol");
const notes = make("ul", { ariaLive: "polite" });
const panel = open("scratchpad", draw);
main.append(
  make("section", { className: "card" }, make("h2", {}, "Task"), task, steps,
    textForm("What is to be done: one thing, and another", "Give", (text) => call(panel, "give", { text }))),
  make("section", {}, make("h2", {}, "Notes"), notes,
    textForm("A note for everybody", "Note", (text) => call(panel, "note", { text }))));

function draw(state) {
  task.textContent = state.task
    ? `${state.task}${state.isDone ? " – done" : ""}`
    : "There is none. Give one, and run agent.py beside this page.";
  steps.replaceChildren(...state.steps.map(({ text, isDone }) => make("li", { className: isDone ? "done" : "" }, text)));
  notes.replaceChildren(...values(state, "note:").sort((a, b) => Number(b.id) - Number(a.id)).map(({ by, text, at }) =>
    make("li", { className: "card" }, make("b", {}, by), ` ${text} `, make("span", { className: "dim" }, new Date(at).toLocaleTimeString()))));
  if (!notes.children.length) notes.append(make("li", { className: "dim" }, "None yet."));
}
