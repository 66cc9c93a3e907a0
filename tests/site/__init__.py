"""The site that tests send requests to."""
