"""Ray: a session, what it has to give, errors and progress of its workers."""
