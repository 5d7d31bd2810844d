"""An artifact against its dense graph on a person's data: what it loses, what it saves, and whether to use it."""
