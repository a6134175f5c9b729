"""The built-in world: drawn scenes, their wording, what is true of them, and its web server."""
