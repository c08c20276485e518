"""Files → reproducible layers; layers → files. Large ones are streamed."""
