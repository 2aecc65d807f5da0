const key = `card:${$args?.id}`;
const card = $state[key];
if (!card) $fail("NO_CARD", "the card is not there any more");
if (!$state.columns.some((column) => column.id === $args.column)) $fail("NO_COLUMN", "there is no such column");

// Cards are sorted by `order`, which is a fraction, so that a move changes one card and not all behind it.
const others = $state.keys()
  .filter((other) => other.startsWith("card:") && other !== key && $state[other].column === $args.column)
  .sort((a, b) => $state[a].order - $state[b].order);
const found = others.indexOf(`card:${$args.before}`);
const place = found < 0 ? others.length : found;
const after = place > 0 ? $state[others[place - 1]].order : undefined;
const before = place < others.length ? $state[others[place]].order : undefined;

card.column = $args.column;
if (after === undefined) card.order = before === undefined ? 1 : before - 1;
else card.order = before === undefined ? after + 1 : (after + before) / 2;

if (card.order === after || card.order === before) {
  // about fifty moves to the same place use a fraction up: the column is numbered anew, once
  others.splice(place, 0, key);
  others.forEach((other, number) => { $state[other].order = number + 1; });
}
return card.order;
