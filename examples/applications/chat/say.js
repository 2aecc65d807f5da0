const KEPT = 200; // messages
const text = String($args?.text ?? "").trim();
if (!text || text.length > 500) $fail("BAD_TEXT", "expected a text of 1 to 500 characters");
const from = $scope.sub ?? "somebody";

const word = $state.forbidden.find((each) => text.toLowerCase().includes(each));
if (word !== undefined) {
  // From here on the handler is data, for minutes or days, and others go on talking.
  const approved = await $ext.human.approve(`${from} writes “${text}”, which has the word “${word}”.`);
  if (!approved) $fail("REFUSED", "a moderator has refused the message");
}

// Read after the wait: others have been talking meanwhile.
const number = $state.next;
$state.next = number + 1;
$state[`message:${number}`] = { from, text, at: $time.now(), approved: word !== undefined };
delete $state[`message:${number - KEPT}`];
return number;
