"""The studio: a local page on which a video is looked at, edited, and compared with its edit (docs/studio.md)."""
