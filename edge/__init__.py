"""What runs on a robot: record, store, forward. No Ray, no Lance, and nothing else of fleetfeed is imported here."""
