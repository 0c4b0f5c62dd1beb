"""Measurements that a user can repeat: each file says what it decides and what limits it."""
