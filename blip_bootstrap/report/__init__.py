"""A round's figures and page, the page over all rounds, and one image's story."""
