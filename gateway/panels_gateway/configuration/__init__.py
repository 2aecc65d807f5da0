"""What the gateway is told: options, their values and where these come from."""
