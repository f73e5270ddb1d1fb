"""Schedules: what each stage opens, at which rate, and the callback that does it."""
