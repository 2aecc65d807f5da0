"""The panels worker pool: sandboxed processes that run handlers, and the supervisor that keeps them."""
