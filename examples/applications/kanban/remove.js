const key = `card:${$args?.id}`;
if (!$state.has(key)) throw new Error("the card is not there any more");
delete $state[key];
return null;
