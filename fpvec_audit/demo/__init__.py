"""A tiny model family made on the spot, on which the whole method really works."""
