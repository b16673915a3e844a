"""The one command `fleetfeed`, the embedded stack it starts, and the demonstration."""
