"""Memory for AI agents that outlives the session."""
