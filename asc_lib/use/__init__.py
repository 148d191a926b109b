"""A trained system: saved, loaded, asked about recordings, exported, explored."""
