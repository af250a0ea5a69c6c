"""The MCP server: memory as a handful of tools that a model picks right.

`seat` holds an agent's place (its client and its session), `tools` what it may do, `answers` how it is told,
`resources` what it may read, `server` puts them behind the protocol; `stdio` and `http` are the two doors.
"""
