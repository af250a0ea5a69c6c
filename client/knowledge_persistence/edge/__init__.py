"""The edge functions: semantic memory for every language that speaks HTTP.

Each function embeds its text and makes one call of the client, as whoever sent the request.
"""
