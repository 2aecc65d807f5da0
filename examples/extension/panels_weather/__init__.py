"""The weather, for handlers of panels."""
