"""Texts of pictures and their scores: rows, pictures decoded once, models loaded once, what each says of a text."""
