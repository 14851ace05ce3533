"""Training: losses (pure functions), stages (what trains, with what), one loop."""
