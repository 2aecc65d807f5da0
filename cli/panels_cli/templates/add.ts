// The default export runs: $state is the panel's state, $args what the client sent, $scope says who it is.
export default function add(): number {
  const by: unknown = $args?.by ?? 1;
  if (!Number.isInteger(by)) throw new Error("expected by to be a whole number");

  const count: number = ($state.count ?? 0) + (by as number);
  $state.count = count;
  $emit("counted", count); // everybody who watches hears of it
  return count;            // and this goes to the caller
}
