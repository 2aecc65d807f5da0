if (!$state.isOpen) $fail("CLOSED", "the poll is closed");
const option = $args?.option;
if (!Number.isInteger(option) || !(option in $state.options)) {
  throw new Error(`expected the index of an option, from 0 to ${$state.options.length - 1}`);
}

// A vote is a key of its own, so that a vote costs the same whether ten or ten thousand people have voted.
const mine = `vote:${$scope.sub ?? "somebody"}`;
const before = $state[mine];
if (before === option) return option;
if (before !== undefined) $state.counts[before] -= 1;
$state.counts[option] += 1;
$state[mine] = option;
return option;
