"""The sandbox process: its loop, its clock, its replicas of panel state."""
