"""A site with everything that projects have around their views, and the requests that are compared on it."""
