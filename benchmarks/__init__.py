"""Measurements of stagetune against its peers; `make bench` runs them."""
