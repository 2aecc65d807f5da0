"""One WebSocket client: the shells around its socket, and the pure core behind them."""
