"""The HTTP API, a module for each family of routes, and uvicorn's HTTP protocol with bounds."""
