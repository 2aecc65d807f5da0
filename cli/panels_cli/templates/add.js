// The body of a function: $state is the panel's state, $args what the client sent, $scope says who it is.
const by = $args?.by ?? 1;
if (!Number.isInteger(by)) throw new Error("expected by to be a whole number");

$state.count = ($state.count ?? 0) + by;
$emit("counted", $state.count); // everybody who watches hears of it
return $state.count;            // and this goes to the caller
