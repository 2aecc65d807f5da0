const key = `card:${$args?.id}`;
if (!$state.has(key)) $fail("NO_CARD", "the card is not there any more");
delete $state[key];
return null;
