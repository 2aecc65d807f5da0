"""The worker's side of the conversation with the gateway."""
