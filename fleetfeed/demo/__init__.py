"""The demonstration: a small simulated fleet, from its cameras and joints to a trained network."""
