"""What stands in the tables of a run: columns, closed lists of values, keys, and cells of users' files as text."""
