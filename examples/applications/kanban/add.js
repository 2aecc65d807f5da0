// A card is a key of its own: whoever moves one touches no other, and nobody is sent the whole board.
const title = String($args?.title ?? "").trim();
if (!title || title.length > 200) $fail("BAD_TITLE", "expected a title of 1 to 200 characters");

const names = $state.columns.map((column) => column.id);
const column = $args.column ?? names[0];
if (!names.includes(column)) $fail("NO_COLUMN", `expected one of the columns ${names.join(", ")}`);

const cards = $state.keys().filter((key) => key.startsWith("card:"));
if (cards.length >= 500) $fail("BOARD_FULL", "the board is full: expected at most 500 cards");

const id = $id(); // from the trigger's own time and seed, so that a replay makes the same
const order = Math.max(0, ...cards.map((key) => $state[key].order)) + 1;
$state[`card:${id}`] = { title, column, order, by: $scope.sub ?? "somebody" };
return id;
