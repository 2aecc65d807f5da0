"""From a handler's source to an authenticated artifact, in disposable processes."""
