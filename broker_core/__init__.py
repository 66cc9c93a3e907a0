"""What a request broker is, with no framework."""
