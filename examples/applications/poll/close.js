$state.isOpen = $args?.isOpen === true;
$emit($state.isOpen ? "poll.opened" : "poll.closed", { counts: $state.counts });
return $state.isOpen;
