"""Work that fails: errors as data, children that may die of it, limits of time and memory, tries that were begun."""
