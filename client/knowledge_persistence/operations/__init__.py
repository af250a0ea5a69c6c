"""What operators do: make keys, back up and restore, look after a deployment."""
