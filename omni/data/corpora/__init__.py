"""One file a corpus: each reads a public layout into clips, dialogues or exchanges."""
