"""URL lists: read, cut into shards, and compared row by row with what was fetched before."""
