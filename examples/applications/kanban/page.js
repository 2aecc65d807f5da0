import { call, make, open, textForm, values } from "../application.js";

const main = document.getElementById("main");
const panel = open("kanban", draw);
let lists = new Map();
let dragged = null;

// What is shown at once, and replaced by the commit: the same change that the handler makes, roughly.
const move = (id, column, before = null) =>
  call(panel, "move", { id, column, before }, {
    optimistic: (draft) => {
      const card = draft[`card:${id}`];
      if (!card) return;
      card.column = column;
      card.order = before === null ? 1e9 : draft[`card:${before}`].order - 1e-6;
    },
  });

function draw(state) {
  if (lists.size !== state.columns.length) build(state.columns);
  const focused = document.activeElement?.dataset.focus; // a button of a card that is drawn anew keeps the focus
  const cards = values(state, "card:").sort((a, b) => a.order - b.order);
  state.columns.forEach((column, number) => {
    const left = state.columns[number - 1], right = state.columns[number + 1];
    lists.get(column.id).replaceChildren(
      ...cards.filter((card) => card.column === column.id).map((card) => cardOf(card, left, right)));
  });
  if (focused) document.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
}

function build(columns) {
  lists = new Map();
  main.replaceChildren(...columns.map(({ id, title }) => {
    const list = make("ul");
    lists.set(id, list);
    const add = textForm(`New card in ${title}`, "Add", (text) => call(panel, "add", { title: text, column: id }), 200);
    const section = make("section", {}, make("h2", {}, title), list, add);
    section.ondragover = (event) => { event.preventDefault(); section.classList.add("over"); };
    section.ondragleave = () => section.classList.remove("over");
    section.ondrop = (event) => {
      event.preventDefault();
      section.classList.remove("over");
      const before = event.target.closest("li")?.dataset.id ?? null;
      if (dragged && dragged !== before) move(dragged, id, before);
    };
    return section;
  }));
}

function cardOf(card, left, right) {
  const button = (label, title, act, name) =>
    make("button", { type: "button", title, ariaLabel: `${title}: ${card.title}`, disabled: act === null, onclick: act, dataset: { focus: `${card.id} ${name}` } }, label);
  const node = make("li", { className: "card", draggable: true, dataset: { id: card.id } },
    card.title,
    make("div", { className: "row" },
      make("span", { className: "dim" }, card.by),
      button("←", "Move left", left ? () => move(card.id, left.id) : null, "left"),
      button("→", "Move right", right ? () => move(card.id, right.id) : null, "right"),
      button("×", "Remove", () => call(panel, "remove", { id: card.id }), "remove")));
  node.ondragstart = () => { dragged = card.id; };
  node.ondragend = () => { dragged = null; };
  return node;
}
