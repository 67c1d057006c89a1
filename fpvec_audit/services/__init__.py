"""One use case per module; the command line and the demo call these and nothing below them."""
