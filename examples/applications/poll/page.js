import { call, make, me, open } from "../application.js";

const main = document.getElementById("main");
const question = make("h2");
const options = make("div", { role: "group" });
const total = make("p", { className: "dim", ariaLive: "polite" });
const toggle = make("button", { type: "button" });
main.append(question, options, total, toggle);

const panel = open("live-poll", draw);
toggle.onclick = () => call(panel, "close", { isOpen: !panel.state.isOpen });

function vote(option) {
  call(panel, "vote", { option }, {
    optimistic: (draft) => {
      const before = draft[`vote:${me}`];
      if (before === option) return;
      if (before !== undefined) draft.counts[before] -= 1;
      draft.counts[option] += 1;
      draft[`vote:${me}`] = option;
    },
  });
}

function draw(state) {
  const all = state.counts.reduce((sum, count) => sum + count, 0);
  question.textContent = state.question;
  while (options.children.length < state.options.length) {
    const number = options.children.length;
    const button = make("button", { type: "button", className: "option", onclick: () => vote(number) });
    button.append(make("span", { className: "share" }), make("span", { className: "label" }));
    options.append(button);
  }
  state.options.forEach((text, number) => {
    const button = options.children[number];
    const share = all ? Math.round((100 * state.counts[number]) / all) : 0;
    button.style.setProperty("--share", `${share}%`);
    button.disabled = !state.isOpen;
    button.ariaPressed = String(state[`vote:${me}`] === number);
    button.querySelector(".share").textContent = `${state.counts[number]} · ${share} %`;
    button.querySelector(".label").textContent = text;
  });
  total.textContent = `${all} ${all === 1 ? "vote" : "votes"}${state.isOpen ? "" : ", the poll is closed"}`;
  toggle.textContent = state.isOpen ? "Close the poll" : "Open it again";
}
