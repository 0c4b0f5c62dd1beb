"""A cluster's whole life on real processes: what clients see while leaders die and are stopped."""
