const KEPT = 100; // notes
const text = String($args?.text ?? "").trim();
if (!text || text.length > 2_000) $fail("BAD_NOTE", "expected a note of 1 to 2,000 characters");
const number = ($state.notes ?? 0) + 1;
$state.notes = number;
$state[`note:${number}`] = { by: $scope.sub ?? "somebody", text, at: $time.now() };
delete $state[`note:${number - KEPT}`];
return number;
