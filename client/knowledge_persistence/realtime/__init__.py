"""The embedded stack's realtime gateway: what Supabase Realtime is to a deployment of the official images.

It speaks the official clients' protocol (versions 1.0.0 and 2.0.0) on a local port behind the origin. Compact where
the official server is distributed: one process, one database, no state that outlives it. Whoever must miss nothing
reads the log of events; what passes here is a hint.

`python -m knowledge_persistence.realtime` is what the embedded stack runs.
"""
