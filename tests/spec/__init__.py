"""The specification in TLA+, and the checks of it: what the protocol must hold whatever happens."""
