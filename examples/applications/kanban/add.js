// A card is a key of its own: whoever moves one touches no other, and nobody is sent the whole board.
const title = String($args?.title ?? "").trim();
if (!title || title.length > 200) throw new Error("expected a title of 1 to 200 characters");

const names = $state.columns.map((column) => column.id);
const column = $args.column ?? names[0];
if (!names.includes(column)) throw new Error(`expected one of the columns ${names.join(", ")}`);

const cards = $state.keys().filter((key) => key.startsWith("card:"));
if (cards.length >= 500) throw new Error("the board is full: expected at most 500 cards");

const id = Math.random().toString(36).slice(2, 12); // from the trigger's own seed, so that a replay finds the same
const order = Math.max(0, ...cards.map((key) => $state[key].order)) + 1;
$state[`card:${id}`] = { title, column, order, by: $scope.sub ?? "somebody" };
return id;
